//! A method and a path.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringway::wire::openai::endpoint::fuzz_endpoint(data));
