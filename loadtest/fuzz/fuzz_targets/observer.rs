//! A streamed answer: the first byte chooses what is watched for.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringway::wire::openai::stream::fuzz_observer(data));
