//! On what a measurement was made, and the processor time that it took: reads `/proc` only.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// What a figure is worth nothing without.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Release of the kernel.
    pub kernel: String,
    /// Processors.
    pub cores: usize,
    /// Seconds since 1970.
    pub unix_seconds: u64,
    /// Commit of the sources, with `+` if they were changed since; empty outside a repository.
    pub commit: String,
}

impl Machine {
    /// This one, now.
    ///
    /// # Errors
    /// If `/proc` or the clock cannot be read.
    pub fn here() -> Result<Self> {
        let git = |args: &[&str]| {
            let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success());
            output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
        };
        let changed = if git(&["status", "--porcelain", "--untracked-files=no"]).is_empty() { "" } else { "+" };
        Ok(Self {
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            cores: std::thread::available_parallelism()?.get(),
            unix_seconds: std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs(),
            commit: git(&["rev-parse", "--short", "HEAD"]) + changed,
        })
    }

    /// Where and when, as a line under a table.
    #[must_use]
    pub fn place(&self) -> String {
        let Self { kernel, cores, unix_seconds, commit } = self;
        format!("kernel {kernel}, {cores} cores, at {unix_seconds} s since 1970, commit {commit}")
    }
}

/// Processor time of this thread in nanoseconds.
///
/// # Panics
/// Never: the clock starts at 0.
#[must_use]
pub fn cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).expect("positive") * 1_000_000_000 + u64::try_from(time.tv_nsec).expect("positive")
}

/// Processor time that a process has used, in seconds.
///
/// # Errors
/// If it is gone.
pub fn cpu_of(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"))?;
    // The name may hold spaces and brackets.
    let (_, fields) = text.rsplit_once(')').context("process state")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).context("process times");
    Ok((ticks(11)? + ticks(12)?) / ticks_per_second())
}

/// How often threads of a process have gone to sleep by themselves.
///
/// # Errors
/// If it is gone.
pub fn wakes_of(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for thread in std::fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task"))? {
        let text = std::fs::read_to_string(thread?.path().join("status"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        sum += line.context("switches of a thread")?.trim().parse::<u64>()?;
    }
    Ok(sum)
}

/// UDP datagrams that left the network namespace of a process.
///
/// # Errors
/// If it is gone.
pub fn datagrams_of(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("net/snmp"))?;
    // A line of names, then one of values.
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp:"));
    let mut words = || lines.next().map(|line| line.split_whitespace());
    let (names, values) = (words().context("names of UDP")?, words().context("counts of UDP")?);
    let (_, sent) = names.zip(values).find(|(name, _)| *name == "OutDatagrams").context("datagrams sent")?;
    Ok(sent.parse()?)
}

/// Processor time of the whole machine that was neither idle nor spent by threads of the least priority, in seconds.
///
/// # Errors
/// If it cannot be read.
pub fn cpu_busy() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("processor times")?;
    let fields: Vec<f64> = line.split_whitespace().skip(1).filter_map(|text| text.parse().ok()).collect();
    // user, nice, system, then idle and waiting, then interrupts and stolen. Only what keeps processors awake is nice here.
    let busy = fields.iter().enumerate().filter(|(at, _)| matches!(at, 0 | 2 | 5..=7)).map(|(_, ticks)| ticks);
    Ok(busy.sum::<f64>() / ticks_per_second())
}

/// Processor time that the host machine took from this one, and all time, both over all processors, in ticks.
///
/// # Errors
/// If it cannot be read.
pub fn stolen() -> Result<(f64, f64)> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("processor times")?;
    let fields: Vec<f64> = line.split_whitespace().skip(1).filter_map(|text| text.parse().ok()).collect();
    // What guests of this machine use is part of the first two.
    Ok((*fields.get(7).context("stolen time")?, fields.iter().take(8).sum()))
}

/// What one processor has done since the machine began.
#[derive(Clone, Copy, Debug)]
pub struct CoreTimes {
    /// Seconds that were neither idle nor spent by threads of a low priority.
    pub busy: f64,
    /// Seconds that the host took.
    pub stolen: f64,
}

/// Of each processor.
///
/// # Errors
/// If it cannot be read.
pub fn cores() -> Result<Vec<CoreTimes>> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let lines = text.lines().skip(1).take_while(|line| line.starts_with("cpu"));
    let core = |line: &str| {
        let fields: Vec<f64> = line.split_whitespace().skip(1).filter_map(|text| text.parse().ok()).collect();
        let seconds = |at: usize| fields.get(at).map(|ticks| ticks / ticks_per_second()).context("processor times");
        Ok(CoreTimes { busy: seconds(0)? + seconds(2)? + seconds(5)? + seconds(6)?, stolen: seconds(7)? })
    };
    lines.map(core).collect()
}

/// How many tasks ran or wanted to, on average over a minute.
///
/// # Errors
/// If it cannot be read.
pub fn load_average() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    Ok(text.split_whitespace().next().context("load average")?.parse()?)
}

/// Memory of this process that is resident, in octets.
///
/// # Errors
/// If it cannot be read.
pub fn resident() -> Result<usize> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages: usize = text.split_whitespace().nth(1).context("resident pages")?.parse()?;
    Ok(pages * rustix::param::page_size())
}

/// Memory of a process, in octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Resident.
    pub resident: u64,
    /// The same, but of what it shares with others its part alone.
    pub proportional: u64,
}

/// Memory of a process. The kernel walks all of it meanwhile, and whoever wants to map more waits.
///
/// # Errors
/// If it is gone.
pub fn memory_of(pid: u32) -> Result<Memory> {
    let text = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("smaps_rollup"))?;
    let of = |name| kilobytes(&text, name).map(|kilobytes| kilobytes * 1_024);
    Ok(Memory { resident: of("Rss:")?, proportional: of("Pss:")? })
}

/// Memory of this machine that could be had, in octets.
///
/// # Errors
/// If it cannot be read.
pub fn available() -> Result<u64> {
    Ok(kilobytes(&std::fs::read_to_string("/proc/meminfo")?, "MemAvailable:")? * 1_024)
}

fn kilobytes(text: &str, name: &'static str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).context(name)?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Kind of the processors, with its last cache as far as the kernel tells.
///
/// # Errors
/// If it cannot be read.
pub fn processor() -> Result<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo")?;
    let field = |name: &str| {
        let line = text.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name));
        line.and_then(|line| line.split_once(':')).map_or("", |(_, value)| value.trim())
    };
    let cache = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index3/size").unwrap_or_default();
    let [name, family, model] = ["model name", "cpu family", "model"].map(field);
    Ok(format!("{name} family {family} model {model}, L3 {}", cache.trim()))
}

fn ticks_per_second() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}
