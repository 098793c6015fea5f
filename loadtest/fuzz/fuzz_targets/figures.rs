//! Rows of the book, as they lie on disk.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringway::ledger::figures::fuzz_figures(data));
