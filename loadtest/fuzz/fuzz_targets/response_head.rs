//! A response's head.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringway::wire::http1::head::fuzz_response_head(data));
