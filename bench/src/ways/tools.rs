//! What others measure with: `iperf3` and `ping`, each in the namespace of its end. What they print is read, and nothing else.

use std::io::{BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use netio::netns;
use serde::Deserialize;

use super::traffic::Ends;
use crate::load::TripTimes;

/// What `iperf3` sends before it counts, in seconds.
const OMITTED: u64 = 1;
/// `ping` sends the next request after an answer, and at the latest after this many milliseconds.
const PING_EVERY_MS: u64 = 1;

/// Ends with its value.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It has ended by itself if all went well.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// What `iperf3 --json` says of all streams together.
#[derive(Debug, Deserialize)]
struct Report {
    error: Option<String>,
    end: End,
}

#[derive(Debug, Default, Deserialize)]
struct End {
    sum_received: Option<Sum>,
}

#[derive(Debug, Deserialize)]
struct Sum {
    bits_per_second: f64,
}

fn started(namespace: &str, command: &mut Command) -> Result<Child> {
    let program = command.get_program().to_string_lossy().into_owned();
    netns::run_in(namespace, || command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn())?
        .with_context(|| format!("{program} does not start: scripts/setup tests installs it"))
}

/// Gbit/s that arrived by `count` streams of `iperf3` together. `measured` surrounds its run.
pub(super) fn iperf(
    ends: &Ends<'_>,
    count: usize,
    measured: &mut dyn FnMut(&mut dyn FnMut()) -> Result<()>,
    lasting: Duration,
) -> Result<f64> {
    let remote = ends.remote.to_string();
    let mut server = Command::new("iperf3");
    let mut server =
        Killed(started(ends.server, server.args(["--server", "--one-off", "--forceflush", "--bind", &remote]))?);
    let mut said = BufReader::new(server.0.stdout.take().context("no output")?).lines();
    while !said.next().context("iperf3 ended before it listened")??.contains("listening") {}
    let (streams, seconds) = (count.to_string(), lasting.as_secs().to_string());
    let omitted = OMITTED.to_string();
    let mut client = Command::new("iperf3");
    client.args(["--client", &remote, "--parallel", &streams, "--time", &seconds, "--omit", &omitted, "--json"]);
    let mut output = None;
    measured(&mut || output = Some(started(ends.client, &mut client).and_then(|child| Ok(child.wait_with_output()?))))?;
    gbit(&output.context("not run")??.stdout)
}

fn gbit(said: &[u8]) -> Result<f64> {
    let report: Report =
        serde_json::from_slice(said).with_context(|| format!("iperf3 says: {}", String::from_utf8_lossy(said)))?;
    ensure!(report.error.is_none(), "iperf3: {}", report.error.unwrap_or_default());
    Ok(report.end.sum_received.context("iperf3 says nothing of what arrived")?.bits_per_second / 1e9)
}

/// Round trips of echo requests, as `ping` prints them.
pub(super) fn pings(
    ends: &Ends<'_>,
    measured: &mut dyn FnMut(&mut dyn FnMut()) -> Result<()>,
    lasting: Duration,
) -> Result<TripTimes> {
    let every = format!("{:.3}", PING_EVERY_MS as f64 / 1e3);
    let (remote, count) = (ends.remote.to_string(), lasting.as_secs() * 1000 / PING_EVERY_MS);
    let mut ping = Command::new("ping");
    ping.args(["-n", "-A", "-i", &every, "-W", "2", "-c", &count.to_string(), &remote]);
    // Warm, as what streams and trips count is.
    let _warm = started(ends.client, &mut ping)?.wait_with_output()?;
    let mut output = None;
    measured(&mut || output = Some(started(ends.client, &mut ping).and_then(|child| Ok(child.wait_with_output()?))))?;
    times(ends.remote, count, &String::from_utf8_lossy(&output.context("not run")??.stdout))
}

fn times(remote: Ipv4Addr, count: u64, said: &str) -> Result<TripTimes> {
    let mut trips = Histogram::<u64>::new_with_bounds(1, 10_000_000_000, 3).context("histogram")?;
    for line in said.lines() {
        let Some((_, time)) = line.split_once(" time=") else { continue };
        let ms: f64 = time.trim_end_matches(" ms").parse().with_context(|| format!("ping says: {line}"))?;
        trips.saturating_record(u64::try_from(Duration::from_secs_f64(ms / 1e3).as_nanos())?);
    }
    ensure!(trips.len() == count, "{} of {count} pings to {remote} were answered", trips.len());
    Ok(TripTimes::of(&trips))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrived_counts_and_an_error_is_told() {
        let said = |text: &str| gbit(text.as_bytes());
        let report =
            r#"{"start":{},"end":{"sum_sent":{"bits_per_second":9e9},"sum_received":{"bits_per_second":5e9}}}"#;
        assert_eq!(said(report).expect("a report"), 5.0);
        let refused = said(r#"{"start":{},"intervals":[],"end":{},"error":"unable to connect"}"#);
        assert!(refused.expect_err("it failed").to_string().contains("unable to connect"));
        assert!(said("").is_err());
    }

    #[test]
    fn each_ping_has_to_be_answered() {
        let said = "64 bytes from 10.0.0.7: icmp_seq=1 ttl=63 time=0.120 ms\n\
                    64 bytes from 10.0.0.7: icmp_seq=2 ttl=63 time=0.240 ms\n\n2 packets transmitted";
        let remote = Ipv4Addr::new(10, 0, 0, 7);
        let trips = times(remote, 2, said).expect("both");
        assert!((trips.p50_us - 120.0).abs() < 1.0 && (trips.p99_us - 240.0).abs() < 1.0, "{trips:?}");
        let lost = times(remote, 3, said).expect_err("one is missing").to_string();
        assert_eq!(lost, "2 of 3 pings to 10.0.0.7 were answered");
    }
}
