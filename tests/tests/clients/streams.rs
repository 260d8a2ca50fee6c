//! Streams and downloads of b1.

use std::time::{Duration, Instant};

use qnat_tests::lab::{INET, Lab, wait_until};
use qnat_tests::running::Running;
use serde_json::Value;

use crate::SOON;

/// Streams in both directions, of 50 Mbit/s each, for eight seconds.
pub(crate) struct Streams {
    client: Running,
    begun: Instant,
    _server: Running,
}

impl Streams {
    pub(crate) fn begin(lab: &Lab) -> Self {
        let server = lab.start("inet", &["iperf3", "--server", "--one-off", "--forceflush"]);
        server.wait_for("Server listening", SOON);
        let mut argv = vec!["iperf3", "--client", INET, "--bidir", "--time", "8", "--bitrate", "50M"];
        argv.extend(["--interval", "0.5", "--json"]);
        let (client, begun) = (lab.start("b1", &argv), Instant::now());
        wait_until("both streams", SOON, || lab.live_mappings("10.0.1.1", 5201).len() == 3);
        Self { client, begun, _server: server }
    }

    /// No error, and as much as was offered as soon as there was a successor.
    pub(crate) fn end(self, killed: Instant) {
        // As long as there was no owner, and as the sender's retransmission had backed off meanwhile.
        let again = (killed - self.begun).as_secs_f64() + 2.5;
        let (status, text) = self.client.end(Duration::from_secs(30));
        let report: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("no report: {text}"));
        assert!(status.success() && report["error"].is_null(), "{status}: {}", report["error"]);
        let intervals = report["intervals"].as_array().expect("a report has intervals");
        for sum in ["sum", "sum_bidir_reverse"] {
            let late = intervals.iter().map(|row| &row[sum]).filter(|row| row["start"].as_f64() > Some(again));
            let mbits: Vec<f64> = late.filter_map(|row| row["bits_per_second"].as_f64()).map(|b| b / 1e6).collect();
            let mean = mbits.iter().sum::<f64>() / f64::from(u32::try_from(mbits.len()).expect("few"));
            assert!(mbits.len() >= 4 && mean > 45.0, "{sum}: {mbits:?} Mbit/s from {again:.1} s on");
        }
    }
}

/// 200 MB of noise that is not the same at any two places.
pub(crate) struct Download {
    client: Running,
    dir: tempfile::TempDir,
    wanted: String,
    mapping: Vec<String>,
}

impl Download {
    pub(crate) fn begin(lab: &Lab) -> Self {
        let url = format!("http://{INET}/blob/200M");
        let wanted = lab.exec("b1", &["curl", "-sS", "--max-time", "20", &format!("{url}/sha256")]);
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("blob");
        let path = file.to_str().expect("a plain path");
        let client = lab.start("b1", &["curl", "-sS", "--max-time", "90", "--limit-rate", "20M", "-o", path, &url]);
        wait_until("the download to be under way", Duration::from_secs(20), || {
            std::fs::metadata(&file).is_ok_and(|meta| meta.len() > 10 << 20)
        });
        let mapping = lab.live_mappings("10.0.1.1", 80);
        assert_eq!(mapping.len(), 1, "one connection: {mapping:?}");
        Self { client, dir, wanted, mapping }
    }

    /// The mapping is with the successor already; the file is whole.
    pub(crate) fn end(self, lab: &Lab) {
        assert_eq!(lab.live_mappings("10.0.1.1", 80), self.mapping);
        let (status, text) = self.client.end(Duration::from_secs(90));
        assert!(status.success(), "curl failed: {text}");
        let path = self.dir.path().join("blob");
        let have = lab.exec("b1", &["sha256sum", path.to_str().expect("a plain path")]);
        assert_eq!(have.split_whitespace().next(), Some(self.wanted.trim()));
    }
}
