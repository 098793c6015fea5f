//! Bodies and streams as logs keep them: put together, masked, fit to be shown.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringway::control::log_store::fuzz_kept(data));
