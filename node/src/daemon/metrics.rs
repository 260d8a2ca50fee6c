//! Turns the plain counters of worker and flow groups into the Prometheus metrics of the node. Never on the packet path:
//! it reads copies, a few times a second. Called by `run`; the API shows [`MetricsPage`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use consensus::flow_groups::Role;
use control::concern::What;
use engine::counters::Counters;
use engine::event::DropReason;
use engine::histogram::Histogram;
use engine::record::Proto;
use metrics_exporter_prometheus::PrometheusHandle;

use super::answer::Answerer;
use super::concerns;
use super::concerns::machine::GUARD_ATTACHED;
use super::flow_actor::{AskFlows, FlowReport};
use super::guard_keeper::GuardState;
use super::worker_thread::WorkerStats;
use crate::answers::Ports;
use crate::nat_log::JournalCounts;

const EVERY: Duration = Duration::from_millis(500);
/// The use of ports costs the worker a walk over all leases, so it is asked once in so many rounds.
const PORTS_EVERY: u32 = 10;

/// All metrics as text. Histograms are kept beside the recorder, which would take samples only: the worker counts in
/// buckets, so that it needs no lock.
#[derive(Clone, Debug)]
pub struct MetricsPage {
    handle: PrometheusHandle,
    histograms: Arc<Mutex<String>>,
}

impl MetricsPage {
    /// The page of an installed recorder.
    #[must_use]
    pub fn new(handle: PrometheusHandle) -> Self {
        describe();
        Self { handle, histograms: Arc::default() }
    }

    /// The page in the Prometheus text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.handle.render() + &self.histograms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn describe() {
    metrics::describe_counter!(
        "qnat_snat_connections_total",
        "SNAT mappings asked of this node as owner. pending: proposed; each of them ends as successful (committed) or \
         failed. failed counts also those that were refused before they were proposed."
    );
    metrics::describe_counter!("qnat_flow_closes_total", "Committed closes of mappings while this node led.");
    metrics::describe_gauge!("qnat_snat_ports_allocated", "Ports in the leases of this node's shards.");
    metrics::describe_gauge!(
        "qnat_snat_ports_used",
        "Leased ports with a live mapping. A port is leased, and counted, for all protocols together."
    );
    metrics::describe_counter!("qnat_leader_changes_total", "Changes of a shard's owner that this node was told of.");
    metrics::describe_counter!("qnat_drops_total", "Dropped frames.");
    metrics::describe_counter!(
        "qnat_link_received_frames_total",
        "Frames of a data interface that the worker was given."
    );
    metrics::describe_counter!("qnat_link_received_bytes_total", "Their bytes, Ethernet header included.");
    metrics::describe_counter!(
        "qnat_link_transmitted_frames_total",
        "Frames that the kernel took for a data interface."
    );
    metrics::describe_counter!("qnat_link_drops_total", "Frames lost between the worker and the wire, by reason.");
    metrics::describe_counter!("qnat_link_receive_stops_total", "Times that receiving ended and was begun again.");
    metrics::describe_gauge!("qnat_links_up", "Both data links are up.");
    metrics::describe_gauge!("qnat_guard_attached", "The kernel's egress guard is attached.");
    metrics::describe_counter!("qnat_guard_frames_total", "Frames that the kernel's egress guard judged.");
    metrics::describe_gauge!("qnat_concerns", "What is not as it should be, as far as this member knows.");
    metrics::describe_counter!("qnat_concerns_raised_total", "Concerns that began, by their kind.");
    metrics::describe_counter!("qnat_nat_log_lost_total", "Lines that the address-translation log lacks.");
}

/// Publishes until the node stops.
pub async fn publish_metrics(page: MetricsPage, answerer: Answerer) {
    let mut ticker = tokio::time::interval(EVERY);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut refused = 0;
    for round in 0_u32.. {
        ticker.tick().await;
        let worker = answerer.stats.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let engine = worker.engine;
        publish_worker(&engine);
        publish_log(answerer.journal.counts(), worker.sessions_lost);
        let Ok(report) = answerer.flows.send(AskFlows).await else { return };
        publish_groups(&report);
        publish_links(&worker, report.report.links_up, &answerer.guard.state());
        let mut text = String::new();
        let held = "How long first packets were held for the commit of their mapping.";
        histogram_text(&mut text, "qnat_first_packet_hold_seconds", held, &engine.hold);
        let commit = "From the proposal of a batch of flows to its commit, on the owner.";
        histogram_text(&mut text, "qnat_raft_commit_seconds", commit, &engine.commit);
        let failover = "From the last word of a shard's former leader to serving here.";
        histogram_text(&mut text, "qnat_failover_seconds", failover, &report.failovers);
        *page.histograms.lock().unwrap_or_else(PoisonError::into_inner) = text;
        if round % PORTS_EVERY == 0
            && let Ok(ports) = answerer.ports().await
        {
            publish_ports(&ports);
            let refused_before = std::mem::replace(&mut refused, engine.dropped(DropReason::PortsExhausted));
            let found = concerns::ports::judge(&ports, answerer.node, refused - refused_before);
            answerer.alarms.replace(&[What::PortsExhausted], found);
        }
    }
}

fn publish_worker(engine: &Counters) {
    metrics::counter!("qnat_frames_received_total").absolute(engine.received);
    metrics::counter!("qnat_frames_transmitted_total").absolute(engine.transmitted);
    metrics::counter!("qnat_frames_forwarded_total").absolute(engine.forwarded);
    for why in DropReason::ALL {
        metrics::counter!("qnat_drops_total", "reason" => why.label()).absolute(engine.dropped(*why));
    }
    for proto in Proto::ALL {
        let (counts, label) = (engine.snat(proto), label_of(proto));
        let failed = counts.failed + counts.failed_later;
        for (state, n) in [("pending", counts.pending), ("successful", counts.successful), ("failed", failed)] {
            metrics::counter!("qnat_snat_connections_total", "proto" => label, "state" => state).absolute(n);
        }
        metrics::counter!("qnat_flow_closes_total", "proto" => label).absolute(counts.closed);
    }
}

/// What is seen below the engine: the interfaces, and the kernel's guard.
fn publish_links(worker: &WorkerStats, links_up: bool, guard: &GuardState) {
    for (side, stats) in [("inside", &worker.inside), ("outside", &worker.outside)] {
        metrics::counter!("qnat_link_received_frames_total", "side" => side).absolute(stats.received);
        metrics::counter!("qnat_link_received_bytes_total", "side" => side).absolute(stats.received_bytes);
        metrics::counter!("qnat_link_transmitted_frames_total", "side" => side).absolute(stats.transmitted);
        for (reason, count) in [
            ("kernel_buffer", stats.kernel_drops),
            ("short", stats.received_short),
            ("lease_check", stats.refused_by_check),
            ("kernel_refused", stats.refused_by_kernel),
            ("link_down", stats.link_down),
            ("transmit_error", stats.transmit_errors),
            ("no_buffer", stats.no_buffer),
        ] {
            metrics::counter!("qnat_link_drops_total", "side" => side, "reason" => reason).absolute(count);
        }
        for (what, count) in [("out_of_buffers", stats.out_of_buffers), ("error", stats.receive_errors)] {
            metrics::counter!("qnat_link_receive_stops_total", "side" => side, "reason" => what).absolute(count);
        }
    }
    metrics::gauge!("qnat_links_up").set(if links_up { 1.0 } else { 0.0 });
    metrics::gauge!("qnat_guard_attached").set(if guard.standing == GUARD_ATTACHED { 1.0 } else { 0.0 });
    let Some(guard) = &guard.counters else { return };
    for (verdict, reason, count) in [
        ("pass", "lease", guard.pass_lease),
        ("pass", "forward", guard.pass_forward),
        ("pass", "grace", guard.pass_grace),
        ("drop", "lease", guard.drop_lease),
        ("drop", "grace", guard.drop_grace),
        ("drop", "address", guard.drop_address),
        ("drop", "arp", guard.drop_arp),
        ("drop", "protocol", guard.drop_protocol),
        ("drop", "source", guard.drop_source),
        ("drop", "short", guard.drop_short),
    ] {
        metrics::counter!("qnat_guard_frames_total", "verdict" => verdict, "reason" => reason).absolute(count);
    }
}

fn publish_log(counts: JournalCounts, sessions_lost: u64) {
    metrics::counter!("qnat_nat_log_lines_total").absolute(counts.written);
    for (reason, lost) in [("write_failed", counts.failed), ("ring_full", sessions_lost)] {
        metrics::counter!("qnat_nat_log_lost_total", "reason" => reason).absolute(lost);
    }
}

fn publish_groups(report: &FlowReport) {
    for group in &report.groups {
        let shard = group.group.0.to_string();
        let owns = if group.role == Role::Leader { 1.0 } else { 0.0 };
        metrics::gauge!("qnat_shard_owner", "shard" => shard.clone()).set(owns);
        metrics::counter!("qnat_elections_total", "shard" => shard).absolute(group.elections);
    }
    for (shard, changes) in &report.leader_changes {
        metrics::counter!("qnat_leader_changes_total", "shard" => shard.0.to_string()).absolute(*changes);
    }
}

/// The rows are those of `qnat ports`; `used` is known for shards with a replica here.
fn publish_ports(ports: &Ports) {
    for row in &ports.backends {
        let frontend = row.frontend.map(|address| address.to_string()).unwrap_or_default();
        let draining = if row.draining.is_empty() { "false" } else { "true" };
        let figures =
            [("qnat_snat_ports_allocated", Some(u32::from(row.allocated))), ("qnat_snat_ports_used", row.used)];
        for (name, value) in figures {
            let Some(ports) = value else { continue };
            metrics::gauge!(name, "frontend" => frontend.clone(), "backend" => row.backend.clone(), "proto" => "all",
                "awaiting_removal" => draining)
            .set(ports);
        }
    }
}

/// Label of a protocol.
#[must_use]
pub const fn label_of(proto: Proto) -> &'static str {
    match proto {
        Proto::Icmp => "icmp",
        Proto::Tcp => "tcp",
        Proto::Udp => "udp",
    }
}

fn histogram_text(text: &mut String, name: &str, help: &str, histogram: &Histogram) {
    let mut lines = vec![format!("# HELP {name} {help}"), format!("# TYPE {name} histogram")];
    let mut below = 0;
    for (end_ns, count) in histogram.buckets() {
        below += count;
        let end = end_ns.map_or_else(|| "+Inf".to_owned(), seconds);
        lines.push(format!("{name}_bucket{{le=\"{end}\"}} {below}"));
    }
    lines.push(format!("{name}_sum {}", seconds(histogram.sum_ns())));
    lines.push(format!("{name}_count {below}"));
    for line in lines {
        text.push_str(&line);
        text.push('\n');
    }
}

/// Exact: a binary fraction would make odd labels.
fn seconds(ns: u64) -> String {
    format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_shown_cumulative_with_sum_and_count() {
        let mut histogram = Histogram::default();
        for ns in [20_000, 40_000, 45_000, 2_000_000_000] {
            histogram.record(ns);
        }
        let mut text = String::new();
        histogram_text(&mut text, "x_seconds", "Help.", &histogram);
        for line in [
            "# TYPE x_seconds histogram",
            "x_seconds_bucket{le=\"0.000032768\"} 1",
            "x_seconds_bucket{le=\"0.000040960\"} 2",
            "x_seconds_bucket{le=\"0.000049152\"} 3",
            "x_seconds_bucket{le=\"1.073741824\"} 3",
            "x_seconds_bucket{le=\"+Inf\"} 4",
            "x_seconds_sum 2.000105000",
            "x_seconds_count 4",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is not in\n{text}");
        }
    }
}
