//! Chunked framing.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringway::wire::http1::chunked::fuzz_chunked(data));
