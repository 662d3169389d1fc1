//! Random numbers of a guest: the operating system's, or those of a seed; each byte costs fuel.

use std::convert::Infallible;

use rand_core::TryRng;
use wasmtime_wasi::{Rng, thread_rng};

use crate::{grants::Random, meter::Charges};

/// A source of random bytes that charges for them.
pub(crate) struct Metered {
    source: Source,
    charges: Charges,
}

enum Source {
    Real(Box<dyn Rng + Send>),
    Seeded(Box<blake3::OutputReader>),
}

impl Metered {
    /// `purpose` keeps the streams of one seed apart.
    pub(crate) fn new(random: Random, purpose: &str, charges: Charges) -> Self {
        let source = match random {
            Random::Real => Source::Real(thread_rng()),
            Random::Seed(seed) => Source::Seeded(Box::new(stream(seed, purpose))),
        };
        Metered { source, charges }
    }
}

/// The bytes of a seed: BLAKE3's output stream, the same on every machine.
fn stream(seed: u64, purpose: &str) -> blake3::OutputReader {
    let mut hasher = blake3::Hasher::new_derive_key("wasmjob random numbers of a seed, version 1");
    hasher.update(&seed.to_le_bytes()).update(purpose.as_bytes()).finalize_xof()
}

/// What `wasi:random/insecure-seed` says for a seed.
pub(crate) fn insecure_seed(seed: u64) -> u128 {
    let mut bytes = [0; 16];
    stream(seed, "insecure-seed").fill(&mut bytes);
    u128::from_le_bytes(bytes)
}

impl TryRng for Metered {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.charges.bytes(bytes.len());
        match &mut self.source {
            Source::Real(source) => source.fill_bytes(bytes),
            Source::Seeded(source) => source.fill(bytes),
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn first(random: Random, purpose: &str) -> u64 {
        Metered::new(random, purpose, Charges::default()).try_next_u64().unwrap()
    }

    #[test]
    fn a_seed_gives_the_same_numbers_and_each_purpose_its_own() {
        assert_eq!(first(Random::Seed(7), "a"), first(Random::Seed(7), "a"));
        assert_ne!(first(Random::Seed(7), "a"), first(Random::Seed(7), "b"));
        assert_ne!(first(Random::Seed(7), "a"), first(Random::Seed(8), "a"));
        assert_ne!(first(Random::Real, "a"), first(Random::Real, "a"));
    }

    #[test]
    fn every_byte_is_charged() {
        let charges = Charges::default();
        let mut random = Metered::new(Random::Seed(1), "a", charges.clone());
        random.try_fill_bytes(&mut [0; 1000]).unwrap();
        assert_eq!(charges.fuel(), 1000);
    }
}
