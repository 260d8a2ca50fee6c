//! See `qnat_fuzz::packets::pipeline`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qnat_fuzz::packets::pipeline(data));
