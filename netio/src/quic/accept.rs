//! Connections from the addresses of listed members: what their certificates say decides whether they become links, knocks or
//! questions to join.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quinn::Connection;
use tokio::time::{Instant, timeout};

use super::admission::{Admission, HANDSHAKE_TIMEOUT, MEMBERS};
use super::close::{CLOSE_KNOCKED, CLOSE_NO_PEER, CLOSE_REPLACED};
use super::connection::{Role, run_link};
use super::shared::{Live, Shared};
use super::strangers::Strangers;
use super::{joining, tls};

/// A link that was younger than this when a knock came from another address survives it: the knock was on its way.
const KNOCK_CROSSED: Duration = Duration::from_millis(100);

/// Admits connections from the addresses of listed members until the endpoint closes; the strangers' thread ends with it.
pub(super) async fn accept_loop(shared: Arc<Shared>, _strangers: Strangers) {
    let mut admission = Admission::new(MEMBERS, Arc::clone(&shared.counters));
    while let Some(incoming) = shared.endpoint.accept().await {
        let Some((incoming, place)) = admission.judge(incoming) else { continue };
        let (shared, began) = (Arc::clone(&shared), Instant::now());
        tokio::spawn(async move {
            let admitted = match timeout(HANDSHAKE_TIMEOUT, incoming).await {
                Ok(Ok(connection)) => {
                    drop(place);
                    admit(&shared, connection, began).await
                }
                Ok(Err(error)) => {
                    tracing::debug!(%error, "handshake refused");
                    None
                }
                Err(_) => None,
            };
            if admitted.is_none() {
                shared.counters.refused.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
}

/// Takes a verified connection, whose handshake came at `began`, for what its certificate says. `None`: refused.
async fn admit(shared: &Arc<Shared>, connection: Connection, began: Instant) -> Option<()> {
    if tls::is_join(&connection) {
        let questions = shared.questions.clone();
        return joining::receive(&shared.guests, &questions, &connection, shared.config.question_life).await;
    }
    let known = shared.proved_peer(&connection);
    let Some(peer) = known else {
        connection.close(CLOSE_NO_PEER, b"not a peer");
        return None;
    };
    if peer.id > shared.own_id {
        // The pair's dialer is us: this is a knock.
        if let Some(live) = &peer.state().live {
            doubt(live, &connection, began, shared.config.dial_timeout);
        }
        peer.wake_dialer.notify_one();
        connection.close(CLOSE_KNOCKED, b"knocked");
        return Some(());
    }
    run_link(Arc::clone(shared), peer, connection, Role::Acceptor).await;
    Some(())
}

/// The peer of a link that seems to live has knocked. Either the link is dead, or it came to be while the knock was on its
/// way, which may take long on a busy machine; so it is asked: a peer that has it no more answers with a stateless reset. One
/// that is at another address now cannot, nor one with another key: who is silent for `patience` has the link no more either.
fn doubt(live: &Live, knock: &Connection, began: Instant, patience: Duration) {
    let link = live.connection.clone();
    if link.remote_address() != knock.remote_address() && began > live.since + KNOCK_CROSSED {
        link.close(CLOSE_REPLACED, b"knocked");
        return;
    }
    tokio::spawn(async move {
        // An empty stream says nothing, and has to be acknowledged.
        let asked = async {
            let mut stream = link.open_uni().await.ok()?;
            stream.finish().ok()?;
            stream.stopped().await.ok()
        };
        if timeout(patience, asked).await.is_err() {
            link.close(CLOSE_REPLACED, b"knocked");
        }
    });
}
