//! Server-Sent Events, cut anywhere.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringway::wire::mask::fuzz_mask(data));
