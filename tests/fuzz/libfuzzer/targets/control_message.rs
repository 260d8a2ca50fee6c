//! See `qnat_fuzz::peers::control_message`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qnat_fuzz::peers::control_message(data));
