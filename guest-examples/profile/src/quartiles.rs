//! Exact quartiles of more values than can be kept, by looking at them several times.
//!
//! The bits of a float, suitably turned, are integers in the order of the floats. Every rank that
//! is wanted lies in a window of such integers, at first the whole range. A pass counts the values
//! of each window in bins and keeps what the rank's bin holds as the next window, until a window
//! has one value, or few enough to collect and sort them.

/// Collected values of all columns together, 8 bytes each, or a third as many bins: 16 MiB.
const SLOTS: usize = 2 << 20;

/// Most of them for one window: up to so many rows two passes are enough.
const SLOTS_PER_WINDOW_MAX: usize = 1 << 16;

const QUARTILES: [f64; 3] = [0.25, 0.5, 0.75];

pub struct Quartiles {
    count: u64,
    /// The values next to each quartile, by rank from 0, as they become known.
    neighbours: [[Rank; 2]; 3],
    windows: Vec<Window>,
}

#[derive(Clone, Copy)]
struct Rank {
    rank: u64,
    value: f64,
}

impl Quartiles {
    /// Of `count` values from `min` to `max`.
    pub fn new(count: u64, min: f64, max: f64) -> Quartiles {
        let last = count.saturating_sub(1);
        let neighbours = QUARTILES.map(|quartile| {
            let low = floor(quartile * last as f64);
            [low, (low + 1).min(last)].map(|rank| Rank { rank, value: f64::NAN })
        });
        let mut ranks: Vec<u64> = neighbours.as_flattened().iter().map(|rank| rank.rank).collect();
        ranks.sort_unstable();
        ranks.dedup();
        let mut quartiles = Quartiles { count, neighbours, windows: Vec::new() };
        if count > 0 {
            let window = Window { low: key(min), high: key(max), before: 0, count, ranks, seen: Seen::Nothing };
            quartiles.take(window);
        }
        quartiles
    }

    /// How many windows another pass would have to look at.
    pub fn windows(&self) -> usize {
        self.windows.len()
    }

    /// Starts a pass in which so many windows share the memory.
    pub fn begin(&mut self, windows_of_all: usize) {
        let slots = (SLOTS / windows_of_all.max(1)).clamp(48, SLOTS_PER_WINDOW_MAX);
        self.windows.iter_mut().for_each(|window| window.begin(slots));
    }

    /// Shows a value. Every pass has to show all of them.
    pub fn add(&mut self, value: f64) {
        let key = key(value);
        for window in &mut self.windows {
            if (window.low..=window.high).contains(&key) {
                window.add(key);
            }
        }
    }

    /// Ends a pass: what is known is put down, and what is not gets narrower windows.
    pub fn finish(&mut self) {
        for window in std::mem::take(&mut self.windows) {
            window.narrowed().into_iter().for_each(|window| self.take(window));
        }
    }

    fn take(&mut self, window: Window) {
        if window.low < window.high {
            self.windows.push(window);
            return;
        }
        for rank in self.neighbours.as_flattened_mut() {
            if window.ranks.contains(&rank.rank) {
                rank.value = float(window.low);
            }
        }
    }

    /// The three quartiles, between their neighbours on a straight line.
    ///
    /// As NumPy does it, which computes with the upper neighbour even where the quartile is exactly
    /// the lower one: beside an infinity that is no number.
    pub fn values(&self) -> [f64; 3] {
        let last = self.count.saturating_sub(1) as f64;
        std::array::from_fn(|i| {
            let [low, high] = self.neighbours[i].map(|rank| rank.value);
            let (position, step) = (QUARTILES[i] * last, high - low);
            let part = position - position.floor();
            if part < 0.5 { low + step * part } else { high - step * (1.0 - part) }
        })
    }
}

/// Values whose keys are `low..=high`. `before` of all values are below it and `count` are in it.
struct Window {
    low: u64,
    high: u64,
    before: u64,
    count: u64,
    ranks: Vec<u64>,
    seen: Seen,
}

enum Seen {
    Nothing,
    All(Vec<u64>),
    /// Bins that are `1 << shift` keys wide.
    Bins {
        shift: u32,
        bins: Vec<Bin>,
    },
}

/// How many values fell into it, and which were the least and the greatest: in a column of few
/// different values a bin soon holds one value only, however often.
#[derive(Clone)]
struct Bin {
    count: u64,
    low: u64,
    high: u64,
}

impl Bin {
    const EMPTY: Bin = Bin { count: 0, low: u64::MAX, high: 0 };
}

impl Window {
    fn begin(&mut self, slots: usize) {
        self.seen = match usize::try_from(self.count) {
            Ok(count) if count <= slots => Seen::All(Vec::with_capacity(count)),
            _ => {
                let bins = slots / 3;
                let shift = u64::BITS - ((self.high - self.low) / bins as u64).leading_zeros();
                Seen::Bins { shift, bins: vec![Bin::EMPTY; bins] }
            }
        };
    }

    fn add(&mut self, key: u64) {
        match &mut self.seen {
            Seen::Nothing => {}
            Seen::All(keys) => keys.push(key),
            Seen::Bins { shift, bins } => {
                let bin = usize::try_from((key - self.low) >> *shift).unwrap_or(usize::MAX);
                if let Some(bin) = bins.get_mut(bin) {
                    bin.count += 1;
                    bin.low = bin.low.min(key);
                    bin.high = bin.high.max(key);
                }
            }
        }
    }

    fn narrowed(self) -> Vec<Window> {
        match self.seen {
            Seen::Nothing => vec![self],
            Seen::All(mut keys) => {
                keys.sort_unstable();
                let one = |rank: &u64| {
                    let key = keys.get(usize::try_from(rank - self.before).ok()?).copied()?;
                    Some(Window {
                        low: key,
                        high: key,
                        before: *rank,
                        count: 1,
                        ranks: vec![*rank],
                        seen: Seen::Nothing,
                    })
                };
                self.ranks.iter().filter_map(one).collect()
            }
            Seen::Bins { ref bins, .. } => self.bins_with_ranks(bins),
        }
    }

    fn bins_with_ranks(&self, bins: &[Bin]) -> Vec<Window> {
        let mut windows = Vec::new();
        let mut before = self.before;
        for &Bin { count, low, high } in bins {
            let inside = before..before + count;
            let ranks: Vec<u64> = self.ranks.iter().copied().filter(|rank| inside.contains(rank)).collect();
            if !ranks.is_empty() {
                windows.push(Window { low, high, before, count, ranks, seen: Seen::Nothing });
            }
            before += count;
        }
        windows
    }
}

/// The place of a float among all floats: negative ones have their bits turned around.
fn key(value: f64) -> u64 {
    let bits = value.to_bits();
    if value.is_sign_negative() { !bits } else { bits | 1 << 63 }
}

fn float(key: u64) -> f64 {
    f64::from_bits(if key >> 63 == 0 { !key } else { key & !(1 << 63) })
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "of a rank, which is a whole number of rows"
)]
fn floor(position: f64) -> u64 {
    position as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against sorting, with so little memory that many passes are needed.
    fn check(values: &[f64]) {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (sorted[0], sorted[sorted.len() - 1]);
        let mut quartiles = Quartiles::new(values.len() as u64, min, max);
        let mut passes = 0;
        while quartiles.windows() > 0 {
            quartiles.begin(usize::MAX);
            values.iter().for_each(|value| quartiles.add(*value));
            quartiles.finish();
            passes += 1;
            assert!(passes <= 18, "not getting narrower");
        }
        let expected = QUARTILES.map(|quartile| {
            let position = quartile * (values.len() - 1) as f64;
            let (low, part) = (position.floor(), position.fract());
            let at = |rank: f64| sorted.get(usize::try_from(floor(rank)).unwrap()).unwrap_or(&sorted[values.len() - 1]);
            *at(low) * (1.0 - part) + *at(low + 1.0) * part
        });
        for (found, expected) in quartiles.values().into_iter().zip(expected) {
            assert!((found - expected).abs() <= 1e-12 * expected.abs(), "{found} for {expected}");
        }
    }

    #[test]
    fn quartiles_are_exact_whatever_the_values() {
        let mut state = 1_u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 11) as f64 / (1_u64 << 53) as f64
        };
        check(&[3.0]);
        check(&[2.0, -1.0]);
        check(&[0.0, -0.0, 0.0, 5e-324, -5e-324]);
        check(&[7.5; 1000]);
        check(&(0..1000).map(|_| random() * 2.0 - 1.0).collect::<Vec<_>>());
        check(&(0..1000).map(|_| (random() * 600.0 - 300.0).exp2()).collect::<Vec<_>>());
        check(&(0..1000).map(|_| (random() * 3.0).floor()).collect::<Vec<_>>());
        check(&(0..1000).map(|i| 1e15 + f64::from(i % 7)).collect::<Vec<_>>());
        check(&[f64::MIN, f64::MIN / 2.0, 0.0, f64::MAX / 2.0, f64::MAX].repeat(50));
    }

    #[test]
    fn beside_an_infinity_there_is_no_quartile() {
        let mut quartiles = Quartiles::new(3, 1.0, f64::INFINITY);
        quartiles.begin(1);
        [f64::INFINITY, 1.0, 2.0].into_iter().for_each(|value| quartiles.add(value));
        quartiles.finish();
        let [p25, p50, _] = quartiles.values();
        assert_eq!(p25, 1.5);
        assert!(p50.is_nan());
    }
}
