//! Clocks, sleeping and random numbers.

use std::{
    collections::{HashSet, hash_map::RandomState},
    hash::{BuildHasher, Hasher},
    thread,
    time::{Duration, Instant, SystemTime},
};

use crate::checks::Checks;

const SLEEP: Duration = Duration::from_millis(5);

pub(crate) fn all(checks: &mut Checks) {
    let mut last = Instant::now();
    let forward = (0..10_000).all(|_| {
        let now = Instant::now();
        std::mem::replace(&mut last, now) <= now
    });
    checks.holds("time never goes back", forward);
    let started = Instant::now();
    thread::sleep(SLEEP);
    checks.holds("sleeping lasts", started.elapsed() >= SLEEP - Duration::from_millis(1));
    let year_2020 = SystemTime::UNIX_EPOCH + Duration::from_secs(1_577_836_800);
    checks.holds("it is later than 2020", SystemTime::now() >= year_2020);
    #[cfg(target_os = "wasi")]
    random(checks);
    let hashes: HashSet<u64> = (0..10).map(|_| RandomState::new().build_hasher().finish()).collect();
    checks.equal("hash maps are seeded", hashes.len(), 10);
}

#[cfg(target_os = "wasi")]
fn random(checks: &mut Checks) {
    let mut bytes = [0_u8; 256];
    #[allow(unsafe_code, reason = "the standard library does not show random numbers")]
    let asked = unsafe { libc::getentropy(bytes.as_mut_ptr().cast(), bytes.len()) };
    checks.equal("random numbers can be had", asked, 0);
    let different: HashSet<u8> = bytes.into_iter().collect();
    checks.holds("they differ", different.len() > 100);
}
