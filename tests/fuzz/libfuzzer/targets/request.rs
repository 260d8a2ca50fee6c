//! See `qnat_fuzz::operator::request`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qnat_fuzz::operator::request(data));
