//! Keeps trying to have a link to one peer: dials it if the own number is the lower one, else knocks, with a backoff that
//! starts over whenever the peer shows life. Ends with its peer (the task is aborted).

use std::sync::Arc;
use std::time::Duration;

use quinn::Connection;
use tokio::time::{sleep, timeout};

use super::connection::{Role, await_greeting, proved_id, run_link};
use super::{Peer, Shared};
use crate::ca::node_name;

/// Runs for as long as the peer is listed.
pub(super) async fn dial_loop(shared: Arc<Shared>, peer: Arc<Peer>) {
    let mut backoff = shared.config.backoff_min;
    loop {
        if peer.state().live.is_some() {
            peer.wake_dialer.notified().await;
            backoff = shared.config.backoff_min;
            continue;
        }
        // A wake cuts a dial short too: it was probing an address, or a former life of the peer, that is no more.
        tokio::select! {
            () = attempt(&shared, &peer) => {}
            () = peer.wake_dialer.notified() => {
                backoff = shared.config.backoff_min;
                continue;
            }
        }
        if peer.state().live.is_some() {
            continue;
        }
        tokio::select! {
            () = sleep(backoff) => backoff = (backoff * 2).min(shared.config.backoff_max),
            () = peer.wake_dialer.notified() => backoff = shared.config.backoff_min,
        }
    }
}

async fn attempt(shared: &Arc<Shared>, peer: &Arc<Peer>) {
    let limit = shared.config.dial_timeout;
    if peer.id < shared.own_id {
        // The peer closes the connection when it has heard us, and dials; wait for both.
        if let Ok(Some(connection)) = timeout(limit, connect(shared, peer)).await {
            let _unheard = timeout(limit, connection.closed()).await;
            sleep(Duration::from_millis(1)).await;
        }
        return;
    }
    let dialed = timeout(limit, async {
        let connection = connect(shared, peer).await?;
        await_greeting(&connection).await?;
        Some(connection)
    });
    if let Ok(Some(connection)) = dialed.await {
        // A task of its own: the link must outlive an interrupted attempt.
        let link = run_link(Arc::clone(shared), Arc::clone(peer), connection, Role::Dialer);
        tokio::spawn(link);
        // It wakes this dialer when it is up.
        peer.wake_dialer.notified().await;
    }
}

/// A connection to whoever proves to be `peer` at its address.
async fn connect(shared: &Shared, peer: &Peer) -> Option<Connection> {
    let address = peer.state().address?;
    // The name makes rustls refuse a server whose certificate does not carry this very number.
    let name = node_name(peer.id, &shared.cluster);
    let connecting = shared.endpoint.connect_with(shared.client.clone(), address, &name).ok()?;
    match connecting.await {
        Ok(connection) if proved_id(&connection) == Some(peer.id) => Some(connection),
        Ok(_) => None,
        Err(error) => {
            tracing::debug!(peer = peer.id, %error, "dial failed");
            None
        }
    }
}
