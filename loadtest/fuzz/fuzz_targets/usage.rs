//! The usage that a provider's answer reports.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringway::wire::json::usage::fuzz_usage(data));
