//! See `qnat_fuzz::peers::control_command`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qnat_fuzz::peers::control_command(data));
