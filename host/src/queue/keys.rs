//! Keys that jobs share: places of concurrency keys, and names of jobs that are wanted once.
//!
//! A concurrency key has numbered places, each an entry that goes by itself when it is not renewed: a node
//! that dies frees them. All writes name the entry that they replace, so that two never have one place.

use std::{collections::BTreeMap, time::Duration};

use async_nats::{
    HeaderMap,
    jetstream::{context::PublishErrorKind, message::PublishMessage},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::time::Instant;
use wasmjob_runtime::Digest;

use super::{
    Broker, QueueError,
    direct::{self, From, StoredMessage},
    names, publish_error,
};
use crate::wire::{Concurrency, JobId, JobSpec};

/// How often it is tried to get a place that others take at the same time.
const TRIES: usize = 16;
/// How long it is seen that a place was left. The server counts in seconds.
const LEFT: Duration = Duration::from_secs(1);
/// How much longer than the result of its job a key is remembered: jobs wait and run as well.
const REMEMBERED: Duration = Duration::from_secs(7 * 86_400);
/// For so long a job that was given a key may not have been published: whoever did that may still be at it.
const IN_PASSING: time::Duration = time::Duration::seconds(60);
/// What marks an entry as gone, in the words of NATS' key-value buckets.
const OPERATION: &str = "KV-Operation";
const MARKER: &str = "Nats-Marker-Reason";

/// A place among those who hold a concurrency key.
#[derive(Debug)]
pub struct Place {
    key: String,
    /// The entry that says so.
    sequence: u64,
    /// When the server frees it, at the earliest.
    pub until: Instant,
}

/// Who a key was given to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Claim {
    job: JobId,
    /// What the job is, whatever its id.
    fingerprint: Digest,
}

fn unavailable(reason: String) -> QueueError {
    QueueError::Unavailable { what: "the keys of jobs".into(), reason }
}

/// Whether an entry is one, and does not only say that there was one.
fn is_there(headers: &HeaderMap) -> bool {
    headers.get(OPERATION).is_none() && headers.get(MARKER).is_none()
}

impl Broker {
    /// Takes a place for `job`, or nothing if there is none. A place that an earlier attempt of the job had
    /// goes to this one.
    pub async fn take_place(
        &self,
        concurrency: &Concurrency,
        job: JobId,
        lease: Duration,
    ) -> Result<Option<Place>, QueueError> {
        for _ in 0..TRIES {
            let entries = self.places(&concurrency.key).await?;
            let holder = |place: u32| entries.get(&place).and_then(|(_, holder)| holder.as_ref());
            let own = entries.iter().find(|(_, (_, holder))| *holder == Some(job)).map(|(place, _)| *place);
            // Others may have been told that more of them may run.
            let holders = entries.values().filter(|(_, holder)| holder.is_some()).count();
            let free = (0..concurrency.max).find(|place| holder(*place).is_none());
            let Some(place) = own.or(free.filter(|_| holders < concurrency.max as usize)) else { return Ok(None) };
            let after = entries.get(&place).map_or(0, |(sequence, _)| *sequence);
            let mut place =
                Place { key: names::place_key(&concurrency.key, place), sequence: after, until: Instant::now() };
            if self.renew_place(&mut place, job, lease).await? {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    /// How many jobs have a place of this key.
    pub async fn holders(&self, key: &str) -> Result<usize, QueueError> {
        Ok(self.places(key).await?.values().filter(|(_, holder)| holder.is_some()).count())
    }

    /// The places of a key that were ever taken and not long left: their entries, and who has them.
    async fn places(&self, key: &str) -> Result<BTreeMap<u32, (u64, Option<JobId>)>, QueueError> {
        let filter = names::key_subject(&names::places_of(key));
        let entries = direct::all(&self.client, names::KEYS_STREAM, &filter).await?;
        let place = |entry: StoredMessage| {
            let place = entry.headers.get("Nats-Subject")?.as_str().rsplit('.').next()?.parse().ok()?;
            let holder = is_there(&entry.headers).then(|| std::str::from_utf8(&entry.payload).ok()?.parse().ok());
            Some((place, (entry.sequence, holder.flatten())))
        };
        Ok(entries.into_iter().filter_map(place).collect())
    }

    /// Keeps a place for another lease. Says no if it is another's now.
    pub async fn renew_place(&self, place: &mut Place, job: JobId, lease: Duration) -> Result<bool, QueueError> {
        let message = PublishMessage::build().payload(job.to_string().into()).ttl(lease.max(LEFT));
        let until = Instant::now() + lease;
        match self.replace(&place.key, message, place.sequence).await? {
            Some(sequence) => (place.sequence, place.until) = (sequence, until),
            None => return Ok(false),
        }
        Ok(true)
    }

    /// Leaves a place. Without it the place is free when its lease ends.
    pub async fn leave_place(&self, place: Place) {
        let message = PublishMessage::build().header(OPERATION, "PURGE").ttl(LEFT);
        if let Err(error) = self.replace(&place.key, message, place.sequence).await {
            tracing::debug!(%error, "a place of a concurrency key could not be left");
        }
    }

    /// Writes an entry over the one with `after`; nothing if that is not the last any more.
    async fn replace(&self, key: &str, message: PublishMessage, after: u64) -> Result<Option<u64>, QueueError> {
        let message = message.expected_last_subject_sequence(after);
        match self.publish(names::key_subject(key), message).await {
            Ok(sequence) => Ok(Some(sequence)),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(None),
            Err(error) => Err(publish_error(&error, "a key of jobs".into())),
        }
    }

    /// The job that has the key of this one: this one, if nobody had it. Errors: another job has it.
    pub async fn claim(&self, spec: &JobSpec) -> Result<JobId, QueueError> {
        let Some(key) = &spec.dedupe_key else { return Ok(spec.id) };
        let (entry, own) = (names::claim_key(key), Claim { job: spec.id, fingerprint: spec.fingerprint() });
        for _ in 0..TRIES {
            let filter = names::key_subject(&entry);
            let last = direct::first(&self.client, names::KEYS_STREAM, &filter, From::Sequence(1)).await?;
            let after = last.as_ref().map_or(0, |last| last.sequence);
            let claimed = last.filter(|last| is_there(&last.headers));
            let claimed = claimed.and_then(|last| serde_json::from_slice::<Claim>(&last.payload).ok());
            if let Some(claimed) = claimed
                && let Some(job) = self.still_has(&claimed, &own, key).await?
            {
                return Ok(job);
            }
            let value = Bytes::from(serde_json::to_vec(&own).expect("a claim has only string keys"));
            let message = PublishMessage::build().payload(value).ttl(remembered(spec));
            if self.replace(&entry, message, after).await?.is_some() {
                return Ok(spec.id);
            }
        }
        Err(unavailable(format!("too many want the key `{key}` at the same time")))
    }

    /// Lets another job have the key of this one, if this one has it.
    pub(super) async fn free_claim(&self, spec: &JobSpec) -> Result<(), QueueError> {
        let Some(key) = &spec.dedupe_key else { return Ok(()) };
        let key = names::claim_key(key);
        let last =
            direct::first(&self.client, names::KEYS_STREAM, &names::key_subject(&key), From::Sequence(1)).await?;
        let Some(last) = last.filter(|last| is_there(&last.headers)) else { return Ok(()) };
        if serde_json::from_slice::<Claim>(&last.payload).is_ok_and(|claim| claim.job == spec.id) {
            let message = PublishMessage::build().header(OPERATION, "PURGE").ttl(LEFT);
            self.replace(&key, message, last.sequence).await?;
        }
        Ok(())
    }

    /// The job of an earlier claim, if it counts. Errors: it does, and is another job.
    async fn still_has(&self, claimed: &Claim, own: &Claim, key: &str) -> Result<Option<JobId>, QueueError> {
        if claimed.job == own.job {
            // Its spec may have been completed since, with the limits of a node.
            return Ok(Some(own.job));
        }
        let same = claimed.fingerprint == own.fingerprint;
        let submitted = claimed.job.submitted();
        let in_passing = submitted.is_some_and(|submitted| OffsetDateTime::now_utc() - submitted < IN_PASSING);
        let counts = in_passing || self.is_known(claimed.job).await?;
        match (counts, same) {
            (false, _) => Ok(None),
            (true, true) => Ok(Some(claimed.job)),
            (true, false) => Err(QueueError::KeyTaken { key: key.to_owned(), job: claimed.job }),
        }
    }
}

fn remembered(spec: &JobSpec) -> Duration {
    let until_start = spec.starts_at().map_or(time::Duration::ZERO, |at| at - OffsetDateTime::now_utc());
    REMEMBERED + Duration::from_millis(spec.result_ttl_ms) + Duration::try_from(until_start).unwrap_or_default()
}
