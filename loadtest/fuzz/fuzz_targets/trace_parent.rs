//! A client's `traceparent`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringway::wire::trace_context::fuzz_trace_parent(data));
