//! Everything about a run that could differ from the next one: clocks, sleeps, random numbers, the order
//! of a hash map, the bits of a NaN. Run with `--deterministic`, it prints the same every time.

use std::collections::HashMap;
use std::io::Read as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

fn main() {
    let started = Instant::now();
    let mut input = String::new();
    if std::io::stdin().read_to_string(&mut input).is_err() {
        std::process::exit(1);
    }
    println!("wall {:?}", SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
    println!("order {:?}", order(&input));
    std::thread::sleep(Duration::from_secs(3600 * u64::from(input.contains("sleep"))));
    println!("slept {:?}", started.elapsed());
    println!("waited for the clock to move, {} looks", looks(started));
    println!("nan {:016x} {:016x}", nan(&input).to_bits(), (-nan(&input)).to_bits());
}

/// The words of the input in the order of a hash map with a random seed.
fn order(input: &str) -> Vec<&str> {
    let words: HashMap<&str, ()> = input.split_whitespace().map(|word| (word, ())).collect();
    words.into_keys().collect()
}

/// How often the clock is read until it has moved by a millisecond.
fn looks(from: Instant) -> u32 {
    let (mut looks, start) = (0, from.elapsed());
    while from.elapsed() - start < Duration::from_millis(1) {
        looks += 1;
    }
    looks
}

/// A NaN that the machine makes, not the compiler.
fn nan(input: &str) -> f64 {
    let zero = if input.len() > usize::MAX / 2 { 1.0 } else { 0.0 };
    std::hint::black_box(zero) / std::hint::black_box(zero)
}
