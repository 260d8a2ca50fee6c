//! `qnat-bench crew`: what a second worker is worth to a whole member, log and sockets included: a cluster of one member, two clients
//! whose shards have a worker each or both the same, and frames that the kernel makes. In each round a fresh lab for each.

use std::time::Duration;

use anyhow::{Result, ensure};
use qnat::answers::FastPath;
use qnat::daemon::data_config::Cache;
use qnat::daemon::request::Request;

use super::offered::{Offered, Wire};
use super::sample::{Sample, Way, summary};
use super::{Args, Load, Meter, Peer, WaysResult, Work};
use crate::beside::BY_CLUSTER;
use crate::lab::{Lab, NODES};
use crate::machine::{self, Machine};

/// Both in turning order.
///
/// # Errors
/// If a lab does not come up, or a flow does not pass.
pub fn run(args: &Args) -> Result<WaysResult> {
    ensure!(
        args.rules == 0 && args.nodes == NODES && args.peer == Peer::Nftables,
        "crew has a comparison of its own: without --rules, --nodes and --peer"
    );
    let (began, lasting) = (machine::load_average()?, Duration::from_secs(args.seconds));
    let (mut rounds, mut elections) = (Vec::new(), 0);
    for round in 0..args.rounds {
        let mut samples = Vec::new();
        let ways = if round % 2 == 0 { [Way::OneWorker, Way::TwoWorkers] } else { [Way::TwoWorkers, Way::OneWorker] };
        for way in ways {
            let workers = if way == Way::TwoWorkers { "2" } else { "1" };
            let lab = Lab::up_of(1, &args.binary, 4, &["--frontends", "2", "--workers", workers])?;
            let before = lab.counted()?;
            samples.extend(of(way, &lab, lasting)?);
            elections += lab.counted()?.since(&before).elections;
        }
        for sample in &samples {
            eprintln!("round {} of {}: {sample}", round + 1, args.rounds);
        }
        rounds.push(samples);
    }
    Ok(WaysResult {
        machine: Machine::here()?,
        work: Work::Crew,
        seconds: args.seconds,
        rules: 0,
        nodes: 1,
        load_average: (began, machine::load_average()?),
        elections,
        summary: summary(&rounds),
        rounds,
    })
}

fn of(way: Way, lab: &Lab, lasting: Duration) -> Result<Vec<Sample>> {
    let _stands: FastPath = lab.ask(1, &Request::Cache { turn: Some(Cache::Off) })?;
    let (one, other) = lab.strangers()?;
    let offered = Offered::of_all([one, other].map(Wire::of))?;
    let mut samples = Vec::new();
    for (name, load) in Work::Crew.loads() {
        let mut meter = Meter::default();
        let mut measured = |work: &mut dyn FnMut()| {
            meter = Meter::of(work)?;
            Ok(())
        };
        let (figures, curve) = if let Load::Offered(count) = load {
            let flows = offered.flows(BY_CLUSTER, count)?;
            offered.open(&flows, || Ok(true))?;
            offered.carried(&flows, &mut measured, lasting)?
        } else {
            let flows = offered.new_flows(BY_CLUSTER)?;
            offered.all_new(lab, || offered.carried(&flows, &mut measured, lasting / 4))?
        };
        let Meter { cores, stolen, carried, .. } = meter;
        samples.push(Sample { way, load: name, figures, cores, stolen, carried, curve });
    }
    Ok(samples)
}
