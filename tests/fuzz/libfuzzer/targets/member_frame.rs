//! See `qnat_fuzz::node::member_frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qnat_fuzz::node::member_frame(data));
