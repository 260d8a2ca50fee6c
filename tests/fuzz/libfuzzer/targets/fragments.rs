//! See `qnat_fuzz::packets::fragments`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qnat_fuzz::packets::fragments(data));
