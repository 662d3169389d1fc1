//! A CPU task of a million iterations, small enough to submit by the dozen.

use serde::{Deserialize, Serialize};

const ITERATIONS_DEFAULT: u64 = 1_000_000;
const START: u64 = 0x9e37_79b9_7f4a_7c15;
/// Steps between two looks at whether the job should come to an end.
const STEPS_AT_ONCE: usize = 100_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    iterations: u64,
}

#[derive(Serialize)]
struct Output {
    job: String,
    attempt: u32,
    iterations: u64,
    /// The state of the generator after so many steps: the same on every machine.
    result: u64,
}

#[wasmjob::main]
fn main(input: Option<Input>) -> Result<Output, wasmjob::Error> {
    let iterations = input.map_or(ITERATIONS_DEFAULT, |input| input.iterations);
    let mut result = START;
    for done in (0..iterations).step_by(STEPS_AT_ONCE) {
        if wasmjob::cancelled() {
            return Err(wasmjob::Error::new(format!("told to stop after {done} of {iterations} iterations")));
        }
        result = xorshift(result, (iterations - done).min(STEPS_AT_ONCE as u64));
    }
    Ok(Output { job: wasmjob::job_id(), attempt: wasmjob::attempt(), iterations, result })
}

/// Steps of Marsaglia's xorshift64. Each needs the one before, so no compiler can skip any.
fn xorshift(from: u64, steps: u64) -> u64 {
    (0..steps).fold(from, |mut x: u64, _| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^ (x << 17)
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_million_steps_end_where_they_always_did() {
        assert_eq!(super::xorshift(super::START, super::ITERATIONS_DEFAULT), 4_500_339_045_783_072_515);
    }
}
