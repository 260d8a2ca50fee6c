//! What a member has counted, put together for one answer: its worker, its groups, its peers, the kernel's guard and fast path, its
//! address-translation log. Pure; called by `answer`.

use engine::counters::Counters;
use engine::event::DropReason;
use engine::fast::FastMode;
use engine::histogram::Histogram;
use engine::ids::Side;
use engine::record::Proto;
use netio::guard::GuardCounters;
use netio::port::PortStats;

use super::fast_path::fast_path;
use super::guard_keeper::GuardState;
use super::reports::{FlowReport, WorkerStats};
use crate::answers::{Counted, GuardCounts, HistogramCounts, LinkCounts, LogCounts, PeerCounts, SnatCounts};
use crate::nat_log::JournalCounts;

/// All of it. `mode`: what is handed over to the kernel.
pub(super) fn counted(
    worker: &WorkerStats,
    report: FlowReport,
    state: &GuardState,
    log: &JournalCounts,
    mode: FastMode,
) -> Counted {
    let (engine, peers) = (&worker.engine, report.transport);
    let inside = worker.links.iter().filter(|life| life.side == Side::Inside);
    let outside = worker.links.iter().find(|life| life.side == Side::Outside);
    let drops = DropReason::ALL.iter().map(|why| (why.label().to_owned(), engine.dropped(*why)));
    Counted {
        received: engine.received,
        transmitted: engine.transmitted,
        originated: engine.originated,
        absorbed: engine.absorbed,
        parked: engine.parked,
        forwarded: engine.forwarded,
        balanced: engine.is_balanced(),
        drops: drops.filter(|(_, n)| *n > 0).collect(),
        hold: histogram(&engine.hold),
        commit: histogram(&engine.commit),
        failover: histogram(&report.failovers),
        leader_changes: report.leader_changes.iter().map(|(s, n)| (s.0.to_string(), *n)).collect(),
        snat: Proto::ALL.map(|proto| snat(engine, proto)).to_vec(),
        inside: inside.map(|life| (life.name.clone(), link(&life.counts))).collect(),
        outside: outside.map(|life| link(&life.counts)).unwrap_or_default(),
        elections: report.groups.iter().map(|group| group.elections).sum(),
        elections_by_shard: report.groups.iter().map(|g| (g.group.0.to_string(), g.elections)).collect(),
        links_up: report.report.has_all_links(),
        frame_drops: report.frame_drops.into_iter().collect(),
        guard: state.counters.as_ref().map(guard),
        guard_put_back: state.put_back,
        fast: fast_path(mode, worker, state),
        peers: PeerCounts {
            refused: peers.refused,
            turned_away: peers.turned_away,
            retried: peers.retried,
            sieved: peers.sieved,
        },
        nat_log: LogCounts {
            written: log.written,
            failed: log.failed,
            dropped: log.dropped,
            sessions_lost: worker.sessions_lost,
        },
    }
}

fn histogram(histogram: &Histogram) -> HistogramCounts {
    let buckets = histogram.buckets().filter(|(_, count)| *count > 0).collect();
    HistogramCounts { count: histogram.count(), sum_ns: histogram.sum_ns(), buckets_ns: buckets }
}

fn snat(engine: &Counters, proto: Proto) -> SnatCounts {
    let counts = engine.snat(proto);
    SnatCounts {
        proto: proto.label().to_owned(),
        pending: counts.pending,
        successful: counts.successful,
        failed: counts.failed + counts.failed_later,
        closed: counts.closed,
    }
}

fn link(stats: &PortStats) -> LinkCounts {
    LinkCounts {
        received: stats.received,
        received_bytes: stats.received_bytes,
        received_short: stats.received_short,
        kernel_drops: stats.kernel_drops,
        out_of_buffers: stats.out_of_buffers,
        receive_errors: stats.receive_errors,
        transmitted: stats.transmitted,
        refused_by_check: stats.refused_by_check,
        refused_by_kernel: stats.refused_by_kernel,
        link_down: stats.link_down,
        transmit_errors: stats.transmit_errors,
        no_buffer: stats.no_buffer,
    }
}

fn guard(counters: &GuardCounters) -> GuardCounts {
    GuardCounts {
        pass_lease: counters.pass_lease,
        pass_forward: counters.pass_forward,
        pass_grace: counters.pass_grace,
        drop_lease: counters.drop_lease,
        drop_grace: counters.drop_grace,
        drop_address: counters.drop_address,
        drop_arp: counters.drop_arp,
        drop_protocol: counters.drop_protocol,
        drop_source: counters.drop_source,
        drop_short: counters.drop_short,
    }
}
