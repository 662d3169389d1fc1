//! What the operator says about queues: whether one rests, how fast its jobs may start, and which jobs go
//! where unless they say so themselves. The same for all nodes, kept in NATS by `queue/rules.rs`.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

/// Rules of one queue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rules {
    /// No job of it is started.
    pub paused: bool,
    /// How many of its jobs start in a time, all nodes together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
}

impl Rules {
    /// In a word.
    pub fn state(&self) -> &'static str {
        if self.paused { "paused" } else { "open" }
    }
}

/// So many in a time, evenly spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate {
    jobs: u32,
    unit: Unit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Second,
    Minute,
    Hour,
    Day,
}

const UNITS: [(&str, Unit, u64); 4] =
    [("s", Unit::Second, 1), ("m", Unit::Minute, 60), ("h", Unit::Hour, 3_600), ("d", Unit::Day, 86_400)];
/// Each start asks the server for its turn, which takes about a millisecond.
const JOBS_PER_S_MAX: u64 = 1_000;

impl Rate {
    /// Time from one start to the next.
    pub fn interval(self) -> Duration {
        Duration::from_secs(self.seconds()) / self.jobs
    }

    fn seconds(self) -> u64 {
        UNITS.iter().find(|(_, unit, _)| *unit == self.unit).map_or(1, |(_, _, seconds)| *seconds)
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || format!("`{text}` is no rate: a number of jobs and s, m, h or d, such as 10/s or 100/h");
        let (jobs, unit) = text.split_once('/').ok_or_else(wanted)?;
        let (_, unit, _) = UNITS.iter().find(|(name, ..)| *name == unit).ok_or_else(wanted)?;
        let rate = Rate { jobs: jobs.parse().map_err(|_| wanted())?, unit: *unit };
        match rate.jobs {
            0 => Err(format!("`{text}` would never start a job; `wasmjob queue pause` does that")),
            jobs if u64::from(jobs) > JOBS_PER_S_MAX * rate.seconds() => {
                Err(format!("`{text}` is more than {JOBS_PER_S_MAX}/s"))
            }
            _ => Ok(rate),
        }
    }
}

impl TryFrom<String> for Rate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> String {
        rate.to_string()
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().find(|(_, unit, _)| *unit == self.unit).map_or("s", |(name, ..)| name);
        write!(f, "{}/{unit}", self.jobs)
    }
}

/// Which queue jobs go to that name none: by patterns of component names and digests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Routes(pub BTreeMap<String, String>);

impl Routes {
    /// The queue of a component that is known by these names. Of several patterns that fit, the longest
    /// counts: it says most.
    pub fn queue(&self, names: &[&str]) -> Option<&str> {
        let fits = |pattern: &str| names.iter().any(|name| fits(pattern.as_bytes(), name.as_bytes()));
        let fitting = self.0.iter().filter(|(pattern, _)| fits(pattern));
        fitting.max_by_key(|(pattern, _)| (pattern.len(), *pattern)).map(|(_, queue)| queue.as_str())
    }
}

/// Whether a text is what a pattern says: `*` stands for anything, `?` for one character.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    // The last `*`, and what it stands for so far ends here.
    let mut star: Option<(usize, usize)> = None;
    while seen < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, seen));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[seen] => (at, seen) = (at + 1, seen + 1),
            _ => {
                let Some((star_at, end)) = star else { return false };
                star = Some((star_at, end + 1));
                (at, seen) = (star_at + 1, end + 1);
            }
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_written_as_people_say_them() {
        for (text, millis) in [("10/s", 100), ("1000/s", 1), ("100/m", 600), ("1/h", 3_600_000), ("2/d", 43_200_000)] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!((rate.interval(), rate.to_string().as_str()), (Duration::from_millis(millis), text));
        }
        for (text, named) in [
            ("10", "10/s"),
            ("x/s", "10/s"),
            ("1/week", "s, m, h or d"),
            ("0/s", "queue pause"),
            ("1001/s", "1000/s"),
            ("-1/s", "10/s"),
        ] {
            let error = text.parse::<Rate>().unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
    }

    #[test]
    fn the_longest_pattern_that_fits_says_the_queue() {
        let routes = [("*", "default"), ("train-*", "ml"), ("train-small*", "small"), ("blake3:ab*", "digests")];
        let routes = Routes(routes.map(|(pattern, queue)| (pattern.to_owned(), queue.to_owned())).into());
        for (name, queue) in [
            ("hello", "default"),
            ("train-forest", "ml"),
            ("train-small-forest", "small"),
            ("blake3:abcd", "digests"),
            ("blake3:bbcd", "default"),
        ] {
            assert_eq!(routes.queue(&[name]), Some(queue), "{name}");
        }
        assert_eq!(routes.queue(&["blake3:ff", "train-x"]), Some("ml"));
        assert_eq!(Routes::default().queue(&["hello"]), None);
    }

    #[test]
    fn patterns_are_matched_without_going_astray() {
        for (pattern, text, is) in [
            ("", "", true),
            ("*", "", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*b*b", "abab", true),
            ("a*b", "abc", false),
            ("a", "ab", false),
            ("**", "x", true),
        ] {
            assert_eq!(fits(pattern.as_bytes(), text.as_bytes()), is, "{pattern} {text}");
        }
        // Time does not grow with the power of the stars.
        assert!(!fits("*a".repeat(50).as_bytes(), "a".repeat(49).as_bytes()));
    }
}
