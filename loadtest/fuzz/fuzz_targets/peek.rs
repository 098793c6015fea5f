//! A JSON body: what is read of it, and the same after a splice.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringway::wire::json::fuzz_peek(data));
