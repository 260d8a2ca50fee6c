//! Keeps trying to have a link to one peer: dials it if the own number is the lower one, else knocks, with a backoff that
//! starts over whenever the peer shows life. Ends with its peer (the task is aborted).

use std::sync::Arc;
use std::time::Duration;

use quinn::{Connection, ConnectionError};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::close::{CLOSE_ASK_AGAIN, CLOSE_NO_PEER};
use super::connection::{Role, await_greeting, run_link};
use super::shared::{Peer, Shared};
use crate::ca::node_name;

/// Up to this age a dial is not cut short by a wake; the first loss probes fall within it.
const DIAL_YOUNG: Duration = Duration::from_millis(50);

/// Runs for as long as the peer is listed.
pub(super) async fn dial_loop(shared: Arc<Shared>, peer: Arc<Peer>) {
    let mut backoff = shared.config.backoff_min;
    let mut attempts = 0;
    loop {
        if peer.state().live.is_some() {
            peer.wake_dialer.notified().await;
            backoff = shared.config.backoff_min;
            continue;
        }
        // A wake cuts an old dial short: it was probing an address, or a former life of the peer, that is no more. A
        // young one goes on: at a common start, dial and knock cross, and a second dial would replace the first's link.
        let late_wake = async {
            sleep(DIAL_YOUNG).await;
            peer.wake_dialer.notified().await;
        };
        attempts += 1;
        let unlisted = tokio::select! {
            unlisted = attempt(&shared, &peer, attempts) => unlisted,
            () = late_wake => {
                backoff = shared.config.backoff_min;
                continue;
            }
        };
        if peer.state().live.is_some() {
            continue;
        }
        let pause = if unlisted { shared.config.backoff_unlisted } else { backoff };
        tokio::select! {
            () = sleep(pause) => backoff = (backoff * 2).min(shared.config.backoff_max),
            () = peer.wake_dialer.notified() => backoff = shared.config.backoff_min,
        }
    }
}

/// Says whether the peer does not list us (yet).
async fn attempt(shared: &Arc<Shared>, peer: &Arc<Peer>, attempt: u64) -> bool {
    let limit = shared.config.dial_timeout;
    if peer.id < shared.own_id {
        // The peer closes the connection when it has heard us, and dials; wait for both.
        let Ok(Some(connection)) = timeout(limit, connect(shared, peer, attempt)).await else { return false };
        let _unheard = timeout(limit, connection.closed()).await;
        sleep(Duration::from_millis(1)).await;
        return is_unlisted(&connection);
    }
    let dialed = timeout(limit, async {
        let connection = connect(shared, peer, attempt).await?;
        let greeted = await_greeting(&connection).await;
        Some((connection, greeted.is_some()))
    });
    let Ok(Some((connection, is_greeted))) = dialed.await else { return false };
    if is_greeted {
        // A task of its own: the link must outlive an interrupted attempt.
        let (installed, outcome) = oneshot::channel();
        tokio::spawn(run_link(Arc::clone(shared), Arc::clone(peer), connection, Role::Dialer(installed)));
        // An error says that the link did not come to be; the loop sees that for itself.
        let _decided = outcome.await;
        return false;
    }
    is_unlisted(&connection)
}

/// Whether the peer ended `connection` because our address, or our number, is not in its list.
fn is_unlisted(connection: &Connection) -> bool {
    let Some(ConnectionError::ApplicationClosed(close)) = connection.close_reason() else { return false };
    close.error_code == CLOSE_ASK_AGAIN || close.error_code == CLOSE_NO_PEER
}

/// A connection to whoever proves to be `peer` at its address, or in turn at the one that it was last heard from.
async fn connect(shared: &Shared, peer: &Peer, attempt: u64) -> Option<Connection> {
    let (listed, proved) = peer.state().addresses;
    let address = proved.filter(|_| attempt % 2 == 1).or(listed)?;
    // The name makes rustls refuse a server whose certificate does not carry this very number.
    let name = node_name(peer.id, &shared.cluster);
    let connecting = shared.endpoint.connect_with(shared.client.clone(), address, &name).ok()?;
    match connecting.await {
        Ok(connection) if shared.proved_peer(&connection).is_some_and(|proved| proved.id == peer.id) => {
            Some(connection)
        }
        Ok(_) => None,
        Err(error) => {
            tracing::debug!(peer = peer.id, %error, "dial failed");
            None
        }
    }
}
