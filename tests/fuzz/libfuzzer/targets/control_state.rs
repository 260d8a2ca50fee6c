//! See `qnat_fuzz::peers::control_state`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qnat_fuzz::peers::control_state(data));
