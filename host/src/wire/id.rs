//! Job ids: ULIDs in lower case. They sort by the time of submission.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use time::OffsetDateTime;
use ulid::{ULID_LEN, Ulid};

/// A job's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(Ulid);

/// An id for a job that is submitted now.
pub fn new_job_id() -> JobId {
    JobId(Ulid::generate())
}

impl JobId {
    /// An id made of a message's time and its place in a stream.
    pub fn of_message(time: OffsetDateTime, sequence: u64) -> JobId {
        let millis = u64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
        JobId(Ulid::from_parts(millis, u128::from(sequence)))
    }

    /// The id of a job's child with this number: the same whenever it is asked for.
    pub fn child(self, number: u32) -> JobId {
        let mut hasher = blake3::Hasher::new_derive_key("wasmjob id of a child, version 1");
        let hash = hasher.update(&self.0.to_bytes()).update(&number.to_le_bytes()).finalize();
        let mut random = [0; 16];
        random[6..].copy_from_slice(&hash.as_bytes()[..10]);
        JobId(Ulid::from_parts(self.0.timestamp_ms(), u128::from_be_bytes(random)))
    }

    /// The id of the job of a schedule's tick: the same whoever handles it.
    pub fn of_tick(schedule: &str, millis: i64) -> JobId {
        let mut hasher = blake3::Hasher::new_derive_key("wasmjob id of a tick, version 1");
        let hash = hasher.update(schedule.as_bytes()).update(&millis.to_le_bytes()).finalize();
        let mut random = [0; 16];
        random[6..].copy_from_slice(&hash.as_bytes()[..10]);
        JobId(Ulid::from_parts(u64::try_from(millis).unwrap_or_default(), u128::from_be_bytes(random)))
    }

    /// When the job was submitted, by the submitter's clock. `None` for a time out of range.
    pub fn submitted(self) -> Option<OffsetDateTime> {
        let nanos = i128::from(self.0.timestamp_ms()) * 1_000_000;
        OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0; ULID_LEN];
        let text = self.0.array_to_str(&mut digits);
        text.make_ascii_lowercase();
        f.write_str(text)
    }
}

impl FromStr for JobId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
        // Letters that ULIDs leave out are read as their look-alikes: two spellings of one id.
        let exact = |ulid: &Ulid| ulid.array_to_str(&mut [0; ULID_LEN]).eq_ignore_ascii_case(text);
        let parsed = Ulid::from_string(text).ok().filter(exact).filter(|_| lower);
        parsed.map(JobId).ok_or_else(|| format!("`{text}` is not a job id: 26 digits and lower-case letters (a ULID)"))
    }
}

impl Serialize for JobId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for JobId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_and_other_spellings_are_refused() {
        let id = new_job_id();
        let text = id.to_string();
        assert_eq!(text.parse::<JobId>(), Ok(id));
        assert_eq!(text, text.to_lowercase());
        for wrong in
            ["", "abc", "01ARZ3NDEKTSV4RRFFQ69G5FAV", "o1arz3ndektsv4rrffq69g5fav", "../../etc/passwd.........."]
        {
            assert!(wrong.parse::<JobId>().is_err(), "{wrong}");
        }
    }
}
