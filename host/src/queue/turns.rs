//! In which order a slot looks into its lanes.
//!
//! The highest priority first; among equals each is the first in turn. Every tenth time, the lanes
//! below the highest are asked before it, each in turn, so that none waits for ever: of ten times as
//! many jobs as there are lanes, a slot takes at least one from every lane in which jobs wait.

use super::names::Lane;

/// One in so many looks begins with a lane that is not first by its priority.
const GENEROUS_EVERY: usize = 10;

/// Counts the looks of one slot.
#[derive(Debug, Default)]
pub(super) struct Turns {
    looks: usize,
}

impl Turns {
    /// The lanes in the order of the next look.
    pub(super) fn order(&mut self, mut lanes: Vec<Lane>) -> Vec<Lane> {
        let look = self.looks;
        self.looks = self.looks.wrapping_add(1);
        if lanes.len() < 2 {
            return lanes;
        }
        let favoured = (look % GENEROUS_EVERY == GENEROUS_EVERY - 1).then(|| {
            let mut others: Vec<&Lane> = lanes.iter().collect();
            others.sort_by_key(|lane| lane.priority());
            others[look / GENEROUS_EVERY % others.len()].clone()
        });
        let turn = look % lanes.len();
        lanes.rotate_left(turn);
        // What belongs nowhere is looked at last, and in its turn.
        lanes.sort_by_key(|lane| std::cmp::Reverse(lane.priority()));
        if let Some(favoured) = favoured {
            lanes.retain(|lane| *lane != favoured);
            lanes.insert(0, favoured);
        }
        lanes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(words: &[&str]) -> Vec<Lane> {
        words.iter().map(|word| Lane { class: "any".into(), word: (*word).into() }).collect()
    }

    #[test]
    fn the_highest_priority_is_looked_at_first() {
        let order = Turns::default().order(lanes(&["p0", "odd", "p9", "p5"]));
        assert_eq!(order, lanes(&["p9", "p5", "p0", "odd"]));
    }

    #[test]
    fn every_lane_is_first_within_ten_times_as_many_looks_as_there_are_lanes() {
        let all = lanes(&["p9", "p8", "p5", "p0", "odd"]);
        let mut turns = Turns::default();
        for _ in 0..20 {
            let firsts: Vec<Lane> = (0..10 * all.len()).map(|_| turns.order(all.clone()).remove(0)).collect();
            assert!(all.iter().all(|lane| firsts.contains(lane)), "{firsts:?}");
            assert!(firsts.iter().filter(|lane| lane.word == "p9").count() >= 9 * firsts.len() / 10 - 1);
        }
    }

    #[test]
    fn equals_take_turns() {
        let both: Vec<Lane> = ["a=1", "any"].map(|class| Lane { class: class.into(), word: "p5".into() }).into();
        let mut turns = Turns::default();
        let firsts: Vec<Lane> = (0..8).map(|_| turns.order(both.clone()).remove(0)).collect();
        assert_eq!(firsts.iter().filter(|lane| lane.class == "any").count(), 4, "{firsts:?}");
    }
}
