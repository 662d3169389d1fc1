//! A CPU task of a million iterations, small enough to submit by the dozen.

use serde::{Deserialize, Serialize};

const ITERATIONS_DEFAULT: u64 = 1_000_000;

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
fn main(input: Option<Input>) -> Output {
    let iterations = input.map_or(ITERATIONS_DEFAULT, |input| input.iterations);
    Output { job: wasmjob::job_id(), attempt: wasmjob::attempt(), iterations, result: xorshift(iterations) }
}

/// Steps of Marsaglia's xorshift64. Each needs the one before, so no compiler can skip any.
fn xorshift(steps: u64) -> u64 {
    (0..steps).fold(0x9e37_79b9_7f4a_7c15, |mut x: u64, _| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^ (x << 17)
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_million_steps_end_where_they_always_did() {
        assert_eq!(super::xorshift(super::ITERATIONS_DEFAULT), 4_500_339_045_783_072_515);
    }
}
