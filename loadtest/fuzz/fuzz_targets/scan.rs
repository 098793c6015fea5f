//! A JSON body, judged whole and in pieces.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringway::wire::json::scan::fuzz_scan(data));
