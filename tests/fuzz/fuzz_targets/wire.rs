#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wasmjob_fuzz::wire::run(data));
