//! See `qnat_fuzz::node::node_toml`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qnat_fuzz::node::node_toml(data));
