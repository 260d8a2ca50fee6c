//! See `qnat_fuzz::operator::config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qnat_fuzz::operator::config(data));
