//! `qnat-chaos awake` as a whole.

use std::process::Command;

/// Hundredths of a second for which the processors that we may use were idle, in all.
fn idle() -> u64 {
    let ours = netio::thread::allowed_cpus().expect("ours");
    let ours: Vec<String> = ours.iter().map(|cpu| format!("cpu{cpu} ")).collect();
    let stat = std::fs::read_to_string("/proc/stat").expect("/proc/stat");
    let lines = stat.lines().filter(|line| ours.iter().any(|cpu| line.starts_with(cpu)));
    lines.map(|line| line.split_whitespace().nth(4).and_then(|ticks| ticks.parse::<u64>().ok()).expect("idle")).sum()
}

#[test]
fn no_processor_is_idle_while_the_command_runs_and_its_exit_code_counts() {
    let before = idle();
    let mut awake = Command::new(env!("CARGO_BIN_EXE_qnat-chaos"));
    let status = awake.args(["awake", "--", "sh", "-c", "sleep 0.5; exit 3"]).status().expect("it runs");
    let idled = idle() - before;
    assert_eq!(status.code(), Some(3));
    // One processor alone has fifty while the command runs.
    assert!(idled <= 10, "idle for {idled} ticks");
}

#[test]
fn what_spins_gives_way_to_every_other_session_and_ends_with_whoever_wanted_it() {
    let script = "sleep 0.2; for p in $(pgrep -f 'awake --spin' -P $PPID); do echo $p; cat /proc/$p/autogroup; done";
    let mut awake = Command::new(env!("CARGO_BIN_EXE_qnat-chaos"));
    let output = awake.args(["awake", "--", "sh", "-c", script]).output().expect("it runs");
    let said = String::from_utf8(output.stdout).expect("text");
    let mut lines = said.lines();
    let spinner = lines.next().unwrap_or_else(|| panic!("nobody spins: {said}")).to_owned();
    // A kernel without groups of sessions has nothing to say.
    assert!(lines.next().is_none_or(|group| group.ends_with(" nice 19")), "{said}");
    assert!(!std::path::Path::new(&format!("/proc/{spinner}")).exists(), "{spinner} spins on");
}
