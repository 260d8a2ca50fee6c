//! One short measurement through the executables, as a user runs it. Needs root and the `qnat` executable beside ours.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use qnat_bench::malformed::Fate;
use qnat_bench::report::Stored;

/// One lab fits on a machine.
static ONE_LAB: Mutex<()> = Mutex::new(());

fn measured(arguments: &[&str]) -> Stored {
    let _alone = ONE_LAB.lock().unwrap_or_else(PoisonError::into_inner);
    let bench = Path::new(env!("CARGO_BIN_EXE_qnat-bench"));
    let qnat = bench.with_file_name("qnat");
    assert!(qnat.exists(), "{} is missing: cargo build -p qnat", qnat.display());
    let mut command = Command::new(bench);
    command.args(arguments).args(["-o", "json", "--binary"]).arg(qnat);
    let output = command.output().expect("the bench starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("a result")
}

#[test]
fn of_malformed_packets_none_leaves_and_sound_ones_pass() {
    let Stored::Malformed(set) = measured(&["malformed"]) else { panic!("the result of another command") };
    assert!(set.rows.len() > 50, "{}", set.rows.len());
    let wrong = |row: &&qnat_bench::malformed::Row| match row.qnat {
        Fate::Passed => !row.sound,
        // R28: what is dropped is counted, by its reason.
        Fate::Dropped => row.sound || row.reason.is_none(),
        Fate::Leaked => true,
    };
    let wrong: Vec<_> = set.rows.iter().filter(wrong).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    // The set shows something only if the kernel, without rules against it, lets some of it out.
    assert!(set.rows.iter().any(|row| row.kernel == Fate::Leaked), "{set:#?}");
}

#[test]
fn a_short_flood_is_committed_delivered_and_compared() {
    let stored = measured(&["flows", "--rate", "300", "--seconds", "1", "--rounds", "1"]);
    let Stored::Flows(result) = stored else { panic!("the result of another command") };
    let (step, kernel, row) = (&result.qnat[0][0], &result.kernel[0][0], &result.summary[0]);
    assert!(step.committed > 0.0 && step.delivered > 0.0 && kernel.delivered > 0.0, "{result:?}");
    assert!(step.delivered <= step.offered && kernel.delivered <= kernel.offered, "{result:?}");
    assert!(step.beside.count > 0 && row.kernel_busy.is_some(), "{result:?}");
    assert!(step.hold_p99.is_some_and(|p| p.us > 0.0 && p.us >= p.above_us), "{result:?}");
}

#[test]
fn so_many_flows_stay_open_at_once_and_are_carried() {
    // What receives has a thread of the kernel's, which is given a processor of its own.
    let seen = std::fs::read_to_string("/proc/2/comm").is_ok_and(|name| name.trim_end() == "kthreadd");
    if !seen {
        eprintln!("left out: in a namespace of processes of its own the kernel's threads are not seen");
        return;
    }
    let stored = measured(&["concurrent", "--flows", "1000,5000", "--seconds", "1", "--rounds", "1"]);
    let Stored::Concurrent(result) = stored else { panic!("the result of another command") };
    assert_eq!(result.sizes.iter().map(|row| row.flows).collect::<Vec<_>>(), [1_000, 5_000]);
    for row in &result.sizes {
        assert!(row.memory.resident >= result.empty.resident && row.opening.per_second > 0.0, "{result:?}");
        let carried = [Some(row.worker), row.cache].map(|carried| carried.is_some_and(|it| it.kpps.median > 0.0));
        assert_eq!(carried, [true; 2], "{result:?}");
    }
}

#[test]
fn an_interrupted_measurement_leaves_nothing_behind() {
    let _alone = ONE_LAB.lock().unwrap_or_else(PoisonError::into_inner);
    let bench = Path::new(env!("CARGO_BIN_EXE_qnat-bench"));
    let tracked = || std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max").unwrap_or_default();
    let before = tracked();
    let mut command = Command::new(bench);
    command.args(["flows", "--rate", "300", "--rounds", "20", "--binary"]).arg(bench.with_file_name("qnat"));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the bench starts");
    let said = BufReader::new(child.stderr.take().expect("piped"));
    // In the second round, in which the masquerade comes first.
    let line = said.lines().map_while(Result::ok).nth(2).expect("it measures");
    assert!(line.contains("round 1"), "{line}");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    let left = Command::new("ip").arg("netns").output().expect("ip runs");
    let left = String::from_utf8_lossy(&left.stdout).into_owned();
    assert!(!left.contains("qnat-") && !left.contains("qbench-"), "{left}");
    assert!(!Path::new("/run/qnat-lab").exists());
    assert_eq!(tracked(), before);
}
