//! Once a second a member looks at itself and takes note of what is not as it should be.

use super::answer::Answerer;

/// Looks once a second until the node stops.
pub(super) async fn watch(answerer: Answerer) {
    let mut ticker = tokio::time::interval(std::time::Duration::from_secs(1));
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticker.tick().await;
        if answerer.note().await.is_err() {
            return;
        }
    }
}
