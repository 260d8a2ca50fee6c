//! See `qnat_fuzz::node::request`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qnat_fuzz::node::request(data));
