//! Seeded faults: delay, loss, duplicates, partitions, pauses, crashes with new incarnations. One seed, one history.

use rand::Rng;

use crate::cluster::{Cluster, MS, Weather};

fn fault(cluster: &mut Cluster, down: &mut Option<(u32, u64)>) {
    let nodes = cluster.nodes.len() as u32;
    let (a, b) = (cluster.rng.random_range(0..nodes), cluster.rng.random_range(0..nodes));
    match cluster.rng.random_range(0..10) {
        0 => {
            cluster.cuts.insert((a, b));
        }
        1 => {
            cluster.cuts.extend([(a, b), (b, a)]);
        }
        2 => {
            cluster.cuts.extend((0..nodes).flat_map(|n| [(a, n), (n, a)]));
        }
        3 | 4 => cluster.cuts.clear(),
        5 => {
            let until = cluster.now + cluster.rng.random_range(5..400) * MS;
            cluster.nodes[a as usize].paused_until = until;
        }
        6 => {
            let most = cluster.rng.random_range(1..40) * MS;
            let loss = cluster.rng.random_range(0.0..0.2);
            cluster.weather = Weather { delay_ns: (100_000, most), loss, duplicate: 0.05 };
        }
        7 => cluster.weather = Weather::CALM,
        // One crash at a time, and only from full redundancy: that is the promise (N3).
        8 if down.is_none() && cluster.all_redundant() => {
            cluster.crash(a);
            *down = Some((a, cluster.now + cluster.rng.random_range(1..300) * MS));
        }
        _ => {
            let up = !cluster.nodes[a as usize].report.links_up;
            cluster.nodes[a as usize].report.links_up = up;
            cluster.publish();
        }
    }
}

fn history(seed: u64, nodes: u32, groups: u16, replicas: u32, faults: u32) -> Cluster {
    let mut cluster = Cluster::new(seed, nodes, groups, replicas);
    assert!(cluster.run_until(2_000 * MS, Cluster::all_redundant), "founding, seed {seed}");
    let mut down: Option<(u32, u64)> = None;
    for _ in 0..faults {
        let pause = cluster.rng.random_range(1..150) * MS;
        cluster.run(pause);
        fault(&mut cluster, &mut down);
        if let Some((id, until)) = down {
            if cluster.now >= until && !cluster.nodes[id as usize].alive {
                cluster.restart(id);
            }
            if cluster.nodes[id as usize].alive && cluster.all_redundant() {
                down = None;
            }
        }
    }
    cluster.cuts.clear();
    cluster.weather = Weather::CALM;
    if let Some((id, _)) = down.filter(|(id, _)| !cluster.nodes[*id as usize].alive) {
        cluster.restart(id);
    }
    for node in &mut cluster.nodes {
        node.paused_until = 0;
        node.report.links_up = true;
    }
    cluster.publish();
    let healed = cluster.run_until(5_000 * MS, Cluster::all_redundant);
    if !healed {
        for node in &cluster.nodes {
            for s in node.groups.status(cluster.now) {
                eprintln!("node {} inc {:?}: {s:?}", node.id, node.incarnation);
            }
        }
        for spec in cluster.specs.values() {
            eprintln!("{spec:?}");
        }
        panic!("not redundant 5 s after the heal, seed {seed}");
    }
    cluster.assert_tables_agree();
    cluster.assert_nothing_lost();
    cluster
}

#[test]
fn three_nodes_agree_under_any_faults() {
    let mut crashes = 0;
    for seed in 0..120 {
        let cluster = history(seed, 3, 2, 3, 30);
        crashes += cluster.nodes.iter().map(|n| n.incarnation.0).max().expect("nodes") - 3;
    }
    assert!(crashes >= 20, "the seeds must contain crashes: {crashes}");
}

#[test]
fn five_nodes_agree_under_any_faults() {
    for seed in 1000..1040 {
        history(seed, 5, 3, 3, 30);
    }
}

#[test]
fn groups_of_five_agree_under_any_faults() {
    for seed in 2000..2040 {
        history(seed, 5, 1, 5, 30);
    }
}

#[test]
fn a_seed_replays_exactly() {
    let trace = |seed| {
        let cluster = history(seed, 3, 2, 3, 12);
        (cluster.now, cluster.judge.leadings.clone(), cluster.judge.committed.clone())
    };
    assert_eq!(trace(77), trace(77));
}
