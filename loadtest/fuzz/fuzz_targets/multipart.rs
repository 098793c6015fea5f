//! A form: the Content-Type up to the first line feed, the body behind it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringway::wire::multipart::fuzz_multipart(data));
