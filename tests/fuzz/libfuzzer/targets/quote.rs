//! See `qnat_fuzz::packets::quote`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qnat_fuzz::packets::quote(data));
