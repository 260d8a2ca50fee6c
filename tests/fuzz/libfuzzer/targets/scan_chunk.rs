//! See `qnat_fuzz::peers::scan_chunk`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qnat_fuzz::peers::scan_chunk(data));
