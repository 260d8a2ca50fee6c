//! See `qnat_fuzz::operator::node_toml`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qnat_fuzz::operator::node_toml(data));
