//! See `qnat_fuzz::packets::tcp_options`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qnat_fuzz::packets::tcp_options(data));
