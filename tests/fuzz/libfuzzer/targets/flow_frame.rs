//! See `qnat_fuzz::peers::flow_frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qnat_fuzz::peers::flow_frame(data));
