//! How a member stops: it asks for the cluster's stop token, hands its shards over, and ends (N3).
//!
//! Without the token it serves on, since a stop from less than full redundancy can cost flows, or the shards their majority;
//! that is the operator's to decide, by a second signal or order. Called by `run`.

use std::time::Duration;

use anyhow::Result;
use control::command::CommandBody;
use engine::ids::NodeId;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::answer::Answerer;
use super::messages::{StopControl, StopFlows, StopOrder};

/// Pause between two wishes for the stop token.
const TOKEN_RETRY: Duration = Duration::from_millis(500);
/// How long leaderships may take to move.
const HANDOVER_WAIT: Duration = Duration::from_secs(3);

/// Waits for the first order: a signal asks for a graceful stop.
///
/// # Errors
/// If signals cannot be had.
pub(super) async fn first_order(orders: &mut mpsc::Receiver<StopOrder>) -> Result<StopOrder> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(tokio::select! {
        _ = terminate.recv() => StopOrder::Graceful,
        _ = interrupt.recv() => StopOrder::Graceful,
        order = orders.recv() => order.unwrap_or(StopOrder::Graceful),
    })
}

/// Hands everything over before this life ends. What does not answer in time is left: a kill loses nothing either.
///
/// # Errors
/// If signals cannot be had.
pub(super) async fn stop_gracefully(
    order: StopOrder,
    answerer: &Answerer,
    orders: &mut mpsc::Receiver<StopOrder>,
) -> Result<()> {
    if order == StopOrder::Graceful {
        tokio::select! {
            () = take_token(answerer) => tracing::info!("stopping with the stop token"),
            again = first_order(orders) => {
                again?;
                tracing::warn!("stopping without the stop token, as ordered again: redundancy may be missing");
            }
        }
    } else {
        tracing::warn!("stopping without the stop token, as ordered: redundancy may be missing");
    }
    let (reply, stopped) = oneshot::channel();
    answerer.flows.do_send(StopFlows(reply));
    match tokio::time::timeout(HANDOVER_WAIT, stopped).await {
        Ok(Ok(0)) => tracing::info!("shards handed over"),
        Ok(Ok(kept)) => tracing::warn!(kept, "nobody takes these shards: they stop with this member"),
        Ok(Err(_)) | Err(_) => tracing::warn!("shards were not handed over in time"),
    }
    answerer.control.do_send(StopControl);
    tokio::time::sleep(Duration::from_millis(300)).await;
    Ok(())
}

/// Asks until the token is given, and says why it is not whenever that changes.
async fn take_token(answerer: &Answerer) {
    let node = NodeId(answerer.node);
    let mut said = String::new();
    while let Err(failure) = answerer.commit(CommandBody::StopTokenTake { node, seen: Vec::new() }).await {
        let why = failure.problems.join("; ");
        if why != said {
            tracing::warn!(why, "asked to stop, but serving on without the stop token; a second signal stops at once");
            said = why;
        }
        tokio::time::sleep(TOKEN_RETRY).await;
    }
}
