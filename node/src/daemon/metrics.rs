//! Turns the plain counters of worker and flow groups into the Prometheus metrics of the node. Never on the packet path:
//! it reads copies, a few times a second. Called by `run`; the API shows [`MetricsPage`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use consensus::flow::Role;
use control::concern::What;
use engine::counters::Counters;
use engine::event::DropReason;
use engine::histogram::Histogram;
use engine::ids::Side;
use engine::record::Proto;
use engine::soundings::Passing;
use metrics_exporter_prometheus::PrometheusHandle;
use netio::link::LinkState;

use super::answer::Answerer;
use super::guard_keeper::GuardState;
use super::messages::AskFlows;
use super::prober::ProbeCounts;
use super::reports::{FlowReport, GUARD_ATTACHED, LinkLife, WorkerStats};
use super::{concerns, fast_path};
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
        fast_path::describe();
        describe_probes();
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
    metrics::describe_gauge!("qnat_links_up", "All data links that shards need are up.");
    metrics::describe_gauge!("qnat_link_up", "The data interface is there and has carrier.");
    metrics::describe_gauge!("qnat_link_silent", "Nobody on this data network answers this node's questions.");
    metrics::describe_gauge!(
        "qnat_link_last_frame_timestamp_seconds",
        "When a frame was heard last on a data network."
    );
    metrics::describe_gauge!(
        "qnat_link_last_answer_timestamp_seconds",
        "When a question of this node was answered last on a data network."
    );
    metrics::describe_gauge!(
        "qnat_peer_last_answer_timestamp_seconds",
        "When a member answered this node last on a data network."
    );
    metrics::describe_gauge!(
        "qnat_next_hop_silent",
        "This node owns a shard, and the next hop answers no ARP question."
    );
    metrics::describe_counter!(
        "qnat_address_claims_total",
        "ARP messages of strangers in the name of a public address or of the inside gateway."
    );
    metrics::describe_gauge!(
        "qnat_address_claimants",
        "Strangers that claimed an address lately, as far as remembered."
    );
    metrics::describe_counter!(
        "qnat_guard_put_back_total",
        "Times that the egress guard was missing and was put back."
    );
    metrics::describe_gauge!(
        "qnat_nat_log_waiting_seconds",
        "For how long the log has had lines that its disk does not take."
    );
    metrics::describe_gauge!("qnat_guard_attached", "The kernel's egress guard is attached.");
    metrics::describe_counter!("qnat_guard_frames_total", "Frames that the kernel's egress guard judged.");
    metrics::describe_gauge!("qnat_concerns", "What is not as it should be, as far as this member knows.");
    metrics::describe_counter!("qnat_concerns_raised_total", "Concerns that began, by their kind.");
    metrics::describe_counter!("qnat_nat_log_lost_total", "Lines that the address-translation log lacks.");
}

fn describe_probes() {
    metrics::describe_gauge!("qnat_probe_targets", "Backends that this node asks now, each once for each probe.");
    metrics::describe_counter!(
        "qnat_probe_attempts_total",
        "Probes by what came of them; void: the lease ended meanwhile, so it says nothing."
    );
    metrics::describe_counter!(
        "qnat_probe_health_entries_total",
        "Entries of the control log in which changes of health were proposed."
    );
    metrics::describe_gauge!("qnat_probe_attempts_under_way", "Probes that wait for their end.");
    metrics::describe_counter!(
        "qnat_probe_turns_full_total",
        "Turns in which a probe was due and too many others were under way."
    );
    metrics::describe_counter!("qnat_probe_health_changes_total", "Changes of health that were proposed.");
}

/// Publishes until the node stops.
pub async fn publish_metrics(page: MetricsPage, answerer: Answerer) {
    let mut ticker = tokio::time::interval(EVERY);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut limited = 0;
    for round in 0_u32.. {
        ticker.tick().await;
        let worker = answerer.stats.read();
        let engine = worker.engine;
        publish_worker(&engine);
        publish_log(answerer.journal.counts(), worker.sessions_lost);
        publish_probes(&answerer.probes.counts());
        let Ok(report) = answerer.flows.send(AskFlows).await else { return };
        publish_groups(&report);
        let guard = answerer.guard.state();
        publish_links(&worker, report.report.has_all_links(), &guard);
        fast_path::publish(&worker.fast, &guard);
        publish_soundings(&worker, super::clock::now().unix_ms);
        let mut text = String::new();
        let held = "How long first packets were held for the commit of their mapping.";
        histogram_text(&mut text, "qnat_first_packet_hold_seconds", held, &engine.hold);
        let commit = "From the proposal of a batch of flows to its commit, on the owner.";
        histogram_text(&mut text, "qnat_raft_commit_seconds", commit, &engine.commit);
        let failover = "From the last word of a shard's former leader to serving here.";
        histogram_text(&mut text, "qnat_failover_seconds", failover, &report.failovers);
        let late = "How much later than due the thread ran that holds leases: it was kept from running.";
        histogram_text(&mut text, "qnat_flow_thread_late_seconds", late, &report.late);
        *page.histograms.lock().unwrap_or_else(PoisonError::into_inner) = text;
        if round % PORTS_EVERY == 0
            && let Ok(ports) = answerer.ports().await
        {
            publish_ports(&ports);
            answerer.alarms.replace(&[What::PortUseHigh], concerns::ports::judge(&ports, answerer.node));
            let found = concerns::shortages::judge(&ports, answerer.node, &worker.shortages, super::clock::now());
            answerer.alarms.replace(&[What::PortsExhausted], found);
            let Ok(control) = answerer.control().await else { return };
            let limited_before = std::mem::replace(&mut limited, engine.dropped(DropReason::FlowLimit));
            let (most, new) = (control.flows_per_backend_max, limited - limited_before);
            let found = concerns::ports::judge_flows(&ports, answerer.node, most, new);
            answerer.alarms.replace(&[What::LimitNear], found);
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
        let (counts, label) = (engine.snat(proto), proto.label());
        let failed = counts.failed + counts.failed_later;
        for (state, n) in [("pending", counts.pending), ("successful", counts.successful), ("failed", failed)] {
            metrics::counter!("qnat_snat_connections_total", "proto" => label, "state" => state).absolute(n);
        }
        metrics::counter!("qnat_flow_closes_total", "proto" => label).absolute(counts.closed);
    }
}

fn side_of(life: &LinkLife) -> &'static str {
    match life.side {
        Side::Inside => "inside",
        Side::Outside => "outside",
    }
}

/// What is seen below the engine: the interfaces, and the kernel's guard.
fn publish_links(worker: &WorkerStats, links_up: bool, guard: &GuardState) {
    for life in &worker.links {
        let (side, interface, stats) = (side_of(life), life.name.clone(), &life.counts);
        metrics::counter!("qnat_link_received_frames_total", "side" => side, "interface" => interface.clone())
            .absolute(stats.received);
        metrics::counter!("qnat_link_received_bytes_total", "side" => side, "interface" => interface.clone())
            .absolute(stats.received_bytes);
        metrics::counter!("qnat_link_transmitted_frames_total", "side" => side, "interface" => interface.clone())
            .absolute(stats.transmitted);
        for (reason, count) in [
            ("kernel_buffer", stats.kernel_drops),
            ("short", stats.received_short),
            ("lease_check", stats.refused_by_check),
            ("kernel_refused", stats.refused_by_kernel),
            ("link_down", stats.link_down),
            ("transmit_error", stats.transmit_errors),
            ("no_buffer", stats.no_buffer),
        ] {
            metrics::counter!("qnat_link_drops_total", "side" => side, "interface" => interface.clone(), "reason" => reason).absolute(count);
        }
        for (what, count) in [("out_of_buffers", stats.out_of_buffers), ("error", stats.receive_errors)] {
            metrics::counter!("qnat_link_receive_stops_total", "side" => side, "interface" => interface.clone(), "reason" => what).absolute(count);
        }
    }
    metrics::gauge!("qnat_links_up").set(if links_up { 1.0 } else { 0.0 });
    metrics::gauge!("qnat_guard_attached").set(if guard.standing == GUARD_ATTACHED { 1.0 } else { 0.0 });
    metrics::counter!("qnat_guard_put_back_total").absolute(guard.put_back);
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

/// What is heard on the data networks. What was never heard has no row: a time of zero would be an age of decades.
fn publish_soundings(worker: &WorkerStats, unix_ms: u64) {
    let truth = |is: bool| if is { 1.0 } else { 0.0 };
    let at = |ns: u64| {
        let age_ms = worker.at_ns.saturating_sub(ns) / 1_000_000;
        Duration::from_millis(unix_ms.saturating_sub(age_ms)).as_secs_f64()
    };
    for link in &worker.links {
        let (side, interface) = (side_of(link), link.name.clone());
        metrics::gauge!("qnat_link_up", "side" => side, "interface" => interface.clone())
            .set(truth(link.state == LinkState::Up));
        metrics::gauge!("qnat_link_silent", "side" => side, "interface" => interface.clone())
            .set(truth(link.heard.passing == Passing::Silent));
        if link.heard.heard_ns > 0 {
            metrics::gauge!("qnat_link_last_frame_timestamp_seconds", "side" => side, "interface" => interface.clone())
                .set(at(link.heard.heard_ns));
        }
        if link.heard.answered_ns > 0 {
            metrics::gauge!("qnat_link_last_answer_timestamp_seconds", "side" => side, "interface" => interface.clone()).set(at(link.heard.answered_ns));
        }
        for (peer, answered_ns) in &link.heard.peers {
            let peer = peer.0.to_string();
            metrics::gauge!("qnat_peer_last_answer_timestamp_seconds", "side" => side, "interface" => interface.clone(), "peer" => peer)
                .set(at(*answered_ns));
        }
    }
    let silent = worker.next_hop.is_some_and(|hop| hop.silent_since_ns.is_some());
    metrics::gauge!("qnat_next_hop_silent").set(truth(silent));
    metrics::counter!("qnat_address_claims_total").absolute(worker.engine.claims);
    for (side, label) in [(Side::Inside, "inside"), (Side::Outside, "outside")] {
        let count = worker.claims.iter().filter(|claim| claim.link.side() == side).count();
        metrics::gauge!("qnat_address_claimants", "side" => label).set(u32::try_from(count).unwrap_or(u32::MAX));
    }
}

/// What this member has asked of backends, as owner.
fn publish_probes(counts: &ProbeCounts) {
    let whole = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    metrics::gauge!("qnat_probe_targets").set(whole(counts.targets));
    metrics::gauge!("qnat_probe_attempts_under_way").set(whole(counts.under_way));
    for (result, count) in &counts.ended {
        metrics::counter!("qnat_probe_attempts_total", "result" => *result).absolute(*count);
    }
    metrics::counter!("qnat_probe_turns_full_total").absolute(counts.late);
    metrics::counter!("qnat_probe_health_changes_total").absolute(counts.changes);
    metrics::counter!("qnat_probe_health_entries_total").absolute(counts.entries);
}

fn publish_log(counts: JournalCounts, sessions_lost: u64) {
    metrics::counter!("qnat_nat_log_lines_total").absolute(counts.written);
    metrics::gauge!("qnat_nat_log_waiting_seconds").set(Duration::from_millis(counts.waiting_ms).as_secs_f64());
    for (reason, lost) in
        [("write_failed", counts.failed), ("queue_full", counts.dropped), ("ring_full", sessions_lost)]
    {
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

    /// The page that `publish` makes.
    fn page(publish: impl FnOnce()) -> Vec<String> {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, publish);
        recorder.handle().render().lines().map(str::to_owned).collect()
    }

    #[test]
    fn what_is_heard_on_the_data_networks_is_on_the_page() {
        use engine::claims::Claim;
        use engine::ids::{Link, Mac, NodeId, VnetId};
        use engine::soundings::{Heard, NextHop};

        let ip = std::net::Ipv4Addr::new(203, 0, 113, 1);
        let link = |name: &str, link, state, heard| LinkLife { heard, ..LinkLife::unheard(name, link, state) };
        let well = Heard {
            passing: Passing::Yes,
            heard_ns: 9_000_000_000,
            answered_ns: 8_500_000_000,
            peers: [(NodeId(2), 8_500_000_000)].into(),
            unanswered: 0,
        };
        let deaf = Heard { passing: Passing::Silent, ..Heard::default() };
        let mut engine = Counters::default();
        engine.claims = 7;
        let worker = WorkerStats {
            engine,
            links: vec![
                link("in", Link::Inside(VnetId(1)), LinkState::Up, well),
                link("out", Link::Outside, LinkState::Gone, deaf),
            ],
            shortages: Vec::new(),
            claims: vec![Claim { link: Link::Outside, ip, mac: Mac([2, 0, 0, 0, 0, 9]), count: 7, at_ns: 1 }],
            next_hop: Some(NextHop { ip, heard_ns: 0, silent_since_ns: Some(1) }),
            at_ns: 10_000_000_000,
            ..WorkerStats::default()
        };
        let guard = GuardState { standing: GUARD_ATTACHED.to_owned(), put_back: 2, ..GuardState::default() };
        let lines = page(|| {
            publish_soundings(&worker, 1_700_000_000_000);
            publish_links(&worker, false, &guard);
            publish_log(JournalCounts { dropped: 4, waiting_ms: 2_500, ..JournalCounts::default() }, 0);
        });
        for line in [
            "qnat_link_up{side=\"inside\",interface=\"in\"} 1",
            "qnat_link_up{side=\"outside\",interface=\"out\"} 0",
            "qnat_link_silent{side=\"inside\",interface=\"in\"} 0",
            "qnat_link_silent{side=\"outside\",interface=\"out\"} 1",
            "qnat_link_last_frame_timestamp_seconds{side=\"inside\",interface=\"in\"} 1699999999",
            "qnat_link_last_answer_timestamp_seconds{side=\"inside\",interface=\"in\"} 1699999998.5",
            "qnat_peer_last_answer_timestamp_seconds{side=\"inside\",interface=\"in\",peer=\"2\"} 1699999998.5",
            "qnat_next_hop_silent 1",
            "qnat_address_claims_total 7",
            "qnat_address_claimants{side=\"inside\"} 0",
            "qnat_address_claimants{side=\"outside\"} 1",
            "qnat_guard_put_back_total 2",
            "qnat_nat_log_lost_total{reason=\"queue_full\"} 4",
            "qnat_nat_log_waiting_seconds 2.5",
        ] {
            assert!(lines.iter().any(|have| have == line), "{line} is not in\n{}", lines.join("\n"));
        }
        let never = "qnat_link_last_answer_timestamp_seconds{side=\"outside\",interface=\"out\"}";
        assert!(!lines.iter().any(|have| have.starts_with(never)), "what was never answered has no time");
    }

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
