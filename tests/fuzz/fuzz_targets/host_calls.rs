#![no_main]

use wasmjob_fuzz::{host_calls, write_seeds};

libfuzzer_sys::fuzz_target!(init: write_seeds(host_calls::seeds), |data: &[u8]| host_calls::run(data));
