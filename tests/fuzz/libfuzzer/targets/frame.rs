//! See `qnat_fuzz::packets::frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qnat_fuzz::packets::frame(data));
