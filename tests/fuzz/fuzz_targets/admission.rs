#![no_main]

use wasmjob_fuzz::{admission, write_seeds};

libfuzzer_sys::fuzz_target!(init: write_seeds(admission::seeds), |data: &[u8]| admission::run(data));
