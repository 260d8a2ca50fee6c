//! Turns the plain counters of worker and flow groups into the Prometheus metrics of the node. Never on the packet path.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::Addr;
use consensus::flow_groups::Role;
use engine::counters::HOLD_BUCKETS;
use engine::event::DropReason;

use super::flow_actor::{AskFlows, FlowActor};
use super::worker_thread::WorkerStats;

const EVERY: Duration = Duration::from_millis(500);

/// Publishes until the node stops.
pub async fn publish_metrics(flows: Addr<FlowActor>, stats: Arc<Mutex<WorkerStats>>) {
    let mut ticker = tokio::time::interval(EVERY);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticker.tick().await;
        let stats = *stats.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let engine = &stats.engine;
        metrics::counter!("qnat_frames_received_total").absolute(engine.received);
        metrics::counter!("qnat_frames_transmitted_total").absolute(engine.transmitted);
        metrics::counter!("qnat_frames_forwarded_total").absolute(engine.forwarded);
        for why in DropReason::ALL {
            metrics::counter!("qnat_drops_total", "reason" => why.label()).absolute(engine.dropped(*why));
        }
        for bucket in 0..HOLD_BUCKETS {
            // Bucket i counts times below 2^(i+1) ns and not below 2^i.
            let below = format!("{:e}", 2f64.powi(i32::try_from(bucket + 1).unwrap_or(i32::MAX)) / 1e9);
            metrics::counter!("qnat_first_packet_hold_seconds", "le" => below).absolute(engine.hold_ns_log2[bucket]);
        }
        let Ok(report) = flows.send(AskFlows).await else { return };
        for group in &report.groups {
            let shard = group.group.0.to_string();
            let owns = if group.role == Role::Leader { 1.0 } else { 0.0 };
            metrics::gauge!("qnat_shard_owner", "shard" => shard.clone()).set(owns);
            metrics::counter!("qnat_elections_total", "shard" => shard).absolute(group.elections);
        }
    }
}
