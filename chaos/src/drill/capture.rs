//! Captures: one `tcpdump` per watched port of the fabric, and a reader of what it wrote. A capture on a port shows what
//! the wire carries, whatever path the frame took through the member. Must never outlive the run. Called by the runs.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use qnat_lab::topology::{FABRIC, Host, Network, fabric_port};
use rustix::process::{Pid, Signal, kill_process};

/// Bytes kept of each frame: all headers.
const SNAP_BYTES: usize = 96;
/// How long a capture may take to start.
const START_BOUND: Duration = Duration::from_secs(5);

/// A time as captures tell it: since 1970.
pub(super) fn nanos(time: SystemTime) -> Result<u64> {
    Ok(u64::try_from(time.duration_since(UNIX_EPOCH)?.as_nanos())?)
}

/// Whose frames, as the port sees them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    /// What the host sent into the fabric.
    FromHost,
    /// What the fabric delivers to the host.
    ToHost,
}

/// A capture under way.
#[derive(Debug)]
pub(super) struct Capture {
    child: Child,
    file: PathBuf,
    log: PathBuf,
}

impl Drop for Capture {
    fn drop(&mut self) {
        // Ended already, most often.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// One IPv4 frame, or one of another kind with the fields of IPv4 empty.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    /// Nanoseconds since 1970.
    pub(super) at_ns: u64,
    pub(super) source_mac: [u8; 6],
    pub(super) ethertype: u16,
    pub(super) source: Ipv4Addr,
    pub(super) destination: Ipv4Addr,
    pub(super) proto: u8,
    /// TCP and UDP only, and not of later fragments.
    pub(super) ports: Option<(u16, u16)>,
}

/// TCP's and UDP's protocol numbers.
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
/// Ethertype of IPv4.
pub(super) const IPV4: u16 = 0x0800;

impl Capture {
    /// Starts watching and returns once the capture runs.
    pub(super) fn start(into: &Path, host: Host, network: Network, side: Side) -> Result<Self> {
        let port = fabric_port(host, network);
        let file = into.join(format!("{port}.pcap"));
        let log = into.join(format!("{port}.log"));
        let direction = match side {
            Side::FromHost => "in",
            Side::ToHost => "out",
        };
        let mut command = Command::new("tcpdump");
        command.args(["-i", &port, "-Q", direction, "-s", &SNAP_BYTES.to_string(), "-n", "-Z", "root"]);
        command.args(["-B", "16384", "--time-stamp-precision=nano", "-w"]).arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log)?);
        let child = netio::netns::run_in(FABRIC, || command.spawn())?.context("tcpdump (a package of Debian)")?;
        let capture = Self { child, file, log };
        let began = Instant::now();
        while !fs::read_to_string(&capture.log)?.contains("listening on") {
            ensure!(began.elapsed() < START_BOUND, "tcpdump on {port}: {}", fs::read_to_string(&capture.log)?);
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(capture)
    }

    /// Stops watching and returns all frames in the order of their times, if none is missing: a frame that the capture lost
    /// looks like one that the cluster lost.
    pub(super) fn stop(mut self) -> Result<Vec<Frame>> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("process number")?;
        kill_process(pid, Signal::INT)?;
        self.child.wait()?;
        let said = fs::read_to_string(&self.log)?;
        ensure!(said.contains("\n0 packets dropped by kernel"), "the capture is not whole: {said}");
        let bytes = fs::read(&self.file)?;
        fs::remove_file(&self.file)?;
        let mut frames = parse(&bytes).with_context(|| self.file.display().to_string())?;
        frames.sort_by_key(|frame| frame.at_ns);
        Ok(frames)
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Reads a pcap file with nanoseconds, little endian, Ethernet. A record cut short at the end ends it.
fn parse(bytes: &[u8]) -> Result<Vec<Frame>> {
    ensure!(word(bytes, 0) == Some(0xa1b2_3c4d), "no pcap file with nanoseconds");
    ensure!(word(bytes, 20) == Some(1), "no Ethernet");
    let mut frames = Vec::new();
    let mut at = 24;
    while let (Some(seconds), Some(nanos), Some(length)) = (word(bytes, at), word(bytes, at + 4), word(bytes, at + 8)) {
        let length = usize::try_from(length)?;
        let Some(frame) = bytes.get(at + 16..at + 16 + length) else { break };
        frames.extend(parse_frame(u64::from(seconds) * 1_000_000_000 + u64::from(nanos), frame));
        at += 16 + length;
    }
    Ok(frames)
}

fn parse_frame(at_ns: u64, bytes: &[u8]) -> Option<Frame> {
    let source_mac = bytes.get(6..12)?.try_into().ok()?;
    let short = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?));
    let ethertype = short(12)?;
    let none = Ipv4Addr::UNSPECIFIED;
    let other = Frame { at_ns, source_mac, ethertype, source: none, destination: none, proto: 0, ports: None };
    if ethertype != IPV4 {
        return Some(other);
    }
    let header = usize::from(bytes.get(14)? & 15) * 4;
    let proto = *bytes.get(23)?;
    let first_fragment = short(20)? & 0x1fff == 0;
    let ports = || Some((short(14 + header)?, short(16 + header)?));
    let ports = (first_fragment && matches!(proto, TCP | UDP)).then(ports).flatten();
    Some(Frame { source: address(26)?, destination: address(30)?, proto, ports, ..other })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_yields_its_frames_and_a_torn_tail_ends_it() {
        let mut frame = vec![0xff; 6];
        frame.extend([2, 0, 0, 0, 0, 7, 0x08, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]);
        frame.extend([10, 0, 1, 1, 203, 0, 113, 10, 0x12, 0x34, 0, 7, 0, 8, 0, 0]);
        let mut file = Vec::new();
        for word in [0xa1b2_3c4d_u32, 0x0004_0002, 0, 0, 96, 1] {
            file.extend(word.to_le_bytes());
        }
        let length = u32::try_from(frame.len()).expect("small");
        for _ in 0..2 {
            for word in [5, 17, length, length] {
                file.extend(word.to_le_bytes());
            }
            file.extend(&frame);
        }
        let frames = parse(&file[..file.len() - 1]).expect("pcap");
        assert_eq!(frames.len(), 1);
        assert_eq!((frames[0].at_ns, frames[0].proto), (5_000_000_017, UDP));
        assert_eq!(frames[0].source_mac, [2, 0, 0, 0, 0, 7]);
        assert_eq!(frames[0].source, Ipv4Addr::new(10, 0, 1, 1));
        assert_eq!(frames[0].ports, Some((0x1234, 7)));
        assert!(parse(&file[1..]).is_err());
    }
}
