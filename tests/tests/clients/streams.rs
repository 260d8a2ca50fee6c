//! Streams and downloads.

use std::time::{Duration, Instant};

use qnat_tests::lab::{INET, Lab, ok, wait_until};
use serde_json::Value;

use crate::SOON;

pub(crate) fn streams_both_ways_are_as_fast_again_after_their_owner_died(lab: &Lab) {
    /// Of each direction, in Mbit/s.
    const OFFERED: f64 = 100.0;
    let server = lab.start("inet", &["iperf3", "--server", "--one-off", "--forceflush"]);
    server.wait_for("Server listening", SOON);
    let client = lab.start(
        "b1",
        &["iperf3", "--client", INET, "--bidir", "--time", "8", "--bitrate", "100M", "--interval", "0.5", "--json"],
    );
    let begun = Instant::now();
    wait_until("both streams to be there", SOON, || lab.live_mappings("10.0.1.1", 5201).len() == 3);
    std::thread::sleep(Duration::from_secs(2).saturating_sub(begun.elapsed()));
    let killed = lab.kill_owner_of("b1");
    let killed_at = begun.elapsed().as_secs_f64();
    lab.wait_for_successor("b1", killed);
    let (status, text) = client.end(Duration::from_secs(30));
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("no report: {text}"));
    assert!(status.success() && report["error"].is_null(), "{status}: {}", report["error"]);
    let intervals = report["intervals"].as_array().expect("a report has intervals");
    // Half a second until the next owner is there, and as long as the sender's retransmission had already backed off.
    let again = killed_at + 2.5;
    for sum in ["sum", "sum_bidir_reverse"] {
        let late = intervals.iter().map(|row| &row[sum]).filter(|row| row["start"].as_f64() > Some(again));
        let mbits: Vec<f64> = late.filter_map(|row| row["bits_per_second"].as_f64()).map(|b| b / 1e6).collect();
        let mean = mbits.iter().sum::<f64>() / f64::from(u32::try_from(mbits.len()).expect("few"));
        assert!(mbits.len() >= 4 && mean > 0.9 * OFFERED, "{sum}: {mbits:?} Mbit/s from {again:.1} s on");
    }
}

pub(crate) fn a_download_survives_the_death_of_its_owner(lab: &Lab) {
    let url = format!("http://{INET}/blob/200M");
    let want = lab.exec("b1", &["curl", "-sS", "--max-time", "20", &format!("{url}/sha256")]);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("blob");
    let path = file.to_str().expect("a plain path");
    let mut curl = lab.spawn("b1", &["curl", "-sS", "--max-time", "90", "--limit-rate", "40M", "-o", path, &url]);
    wait_until("the download to be under way", Duration::from_secs(20), || {
        std::fs::metadata(&file).is_ok_and(|meta| meta.len() > 20 << 20)
    });
    let before = lab.live_mappings("10.0.1.1", 80);
    assert_eq!(before.len(), 1, "one connection: {before:?}");
    let owner = lab.kill_owner_of("b1");
    wait_until("the mapping to be with another owner", Duration::from_secs(20), || {
        lab.owner_of("b1") != owner && lab.live_mappings("10.0.1.1", 80) == before
    });
    assert!(curl.wait().expect("curl ends").success(), "curl failed");
    let have = ok(&["lab", "exec", "b1", "--", "sha256sum", path]);
    assert_eq!(have.split_whitespace().next(), Some(want.trim()));
}
