//! Fuzz targets: functions of arbitrary bytes that panic if something is wrong. `libfuzzer/` lets libFuzzer choose the bytes
//! (`cargo +nightly fuzz run --fuzz-dir tests/fuzz/libfuzzer TARGET`), `tests/corpus.rs` replays on any toolchain what it
//! chose before, from `corpus/`.
//!
//! `packets` for what comes from the data networks, `peers` for what members send and store, `operator` for what people
//! declare, `node` for what the executable's crate reads itself (a feature: without it a third of the building remains).
//! Each bounds the memory that its input may make the product ask for (`bounded`).

#[cfg(feature = "node")]
pub mod node;
pub mod operator;
pub mod packets;
pub mod peers;

/// A target.
pub type Target = fn(&[u8]);

/// All of them by name, which is also their folder in `corpus/` and their program in `libfuzzer/targets`.
pub const TARGETS: &[(&str, Target)] = &[
    ("frame", packets::frame),
    ("quote", packets::quote),
    ("fragments", packets::fragments),
    ("tcp_options", packets::tcp_options),
    ("pipeline", packets::pipeline),
    ("flow_entry", peers::flow_entry),
    ("scan_chunk", peers::scan_chunk),
    ("flow_frame", peers::flow_frame),
    ("control_message", peers::control_message),
    ("control_command", peers::control_command),
    ("control_state", peers::control_state),
    ("config", operator::config),
    #[cfg(feature = "node")]
    ("member_frame", node::member_frame),
    #[cfg(feature = "node")]
    ("node_toml", node::node_toml),
    #[cfg(feature = "node")]
    ("request", node::request),
];

/// Runs `read`, and panics if it ever held more than `each` octets per octet of input, and a little to begin with.
fn bounded<T>(input: &[u8], each: u64, read: impl FnOnce() -> T) -> T {
    const ANYWAY: u64 = 256 << 10;
    within(ANYWAY + each * input.len() as u64, input, read)
}

/// The same with a limit of its own.
fn within<T>(most: u64, input: &[u8], read: impl FnOnce() -> T) -> T {
    let mut value = None;
    let used = allocation_counter::measure(|| value = Some(read()));
    assert!(used.bytes_max <= most, "{} octets of input took {} octets of memory", input.len(), used.bytes_max);
    value.expect("it has run")
}

/// Reads a fuzzer's bytes as numbers; zeros when they are used up.
struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// So many bytes, or as many as there are.
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }
}
