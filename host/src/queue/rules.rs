//! Where the rules of queues are kept, and how jobs of a queue with a rate get their turns.

use std::{collections::BTreeMap, time::Duration};

use async_nats::jetstream::kv::{Operation, Store, UpdateErrorKind};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

use super::{Broker, QueueError, names};
use crate::rules::{Rate, Routes, Rules};

/// The rules of all queues that have any; nothing until they are known.
pub type Rulebook = watch::Sender<Option<BTreeMap<String, Rules>>>;

/// How late a turn may be taken without those after it being later.
const LATE: SignedDuration = SignedDuration::from_millis(50);

/// Whose turn it is to start a job of a queue with a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Whoever asked.
    Taken,
    /// Nobody's for so long.
    In(Duration),
}

fn unavailable(reason: String) -> QueueError {
    QueueError::Unavailable { what: "the rules of queues".into(), reason }
}

impl Broker {
    async fn queue_bucket(&self) -> Result<Store, QueueError> {
        self.jetstream.get_key_value(names::QUEUES).await.map_err(|error| unavailable(error.to_string()))
    }

    /// The rules of a queue, and their revision.
    pub async fn rules(&self, queue: &str) -> Result<(Rules, u64), QueueError> {
        let entry = self.queue_bucket().await?.entry(names::rules_key(queue)).await;
        let Some(entry) = entry.map_err(|error| unavailable(error.to_string()))? else {
            return Ok((Rules::default(), 0));
        };
        let rules = match entry.operation {
            Operation::Put => {
                serde_json::from_slice(&entry.value).map_err(|error| unavailable(format!("{queue}: {error}")))?
            }
            _ => Rules::default(),
        };
        Ok((rules, entry.revision))
    }

    /// Keeps the rules of a queue over those with `revision`. Errors: also if somebody else changed them.
    pub async fn keep_rules(&self, queue: &str, rules: &Rules, revision: u64) -> Result<(), QueueError> {
        let value = Bytes::from(serde_json::to_vec(rules).expect("rules have only string keys"));
        let kept = self.queue_bucket().await?.update(names::rules_key(queue), value, revision).await;
        kept.map(drop).map_err(|error| unavailable(format!("those of {queue} changed meanwhile: {error}")))
    }

    /// The routes, and their revision.
    pub async fn routes(&self) -> Result<(Routes, u64), QueueError> {
        let entry = self.queue_bucket().await?.entry(names::ROUTES_KEY).await;
        let Some(entry) = entry.map_err(|error| unavailable(error.to_string()))? else {
            return Ok((Routes::default(), 0));
        };
        let routes = serde_json::from_slice(&entry.value).map_err(|error| unavailable(format!("routes: {error}")))?;
        Ok((routes, entry.revision))
    }

    /// Keeps the routes over those with `revision`.
    pub async fn keep_routes(&self, routes: &Routes, revision: u64) -> Result<(), QueueError> {
        let value = Bytes::from(serde_json::to_vec(routes).expect("routes have only string keys"));
        let kept = self.queue_bucket().await?.update(names::ROUTES_KEY, value, revision).await;
        kept.map(drop).map_err(|error| unavailable(format!("the routes changed meanwhile: {error}")))
    }

    /// Keeps `book` up to date until the connection closes.
    pub async fn watch_rules(&self, book: &Rulebook) -> Result<(), QueueError> {
        let bucket = self.queue_bucket().await?;
        let mut changes = bucket.watch_with_history("queue.*").await.map_err(|error| unavailable(error.to_string()))?;
        // An empty bucket has nothing to say, and no first entry that would say that it is the last.
        let keys: Vec<String> = bucket
            .keys()
            .await
            .map_err(|error| unavailable(error.to_string()))?
            .try_collect()
            .await
            .map_err(|error| unavailable(error.to_string()))?;
        let mut rules = BTreeMap::new();
        if !keys.iter().any(|key| names::queue_of_rules(key).is_some()) {
            book.send_replace(Some(rules.clone()));
        }
        while let Some(entry) = changes.next().await {
            let entry = entry.map_err(|error| unavailable(error.to_string()))?;
            let Some(queue) = names::queue_of_rules(&entry.key) else { continue };
            match (entry.operation, serde_json::from_slice::<Rules>(&entry.value)) {
                (Operation::Put, Ok(said)) => drop(rules.insert(queue.to_owned(), said)),
                (Operation::Put, Err(error)) => tracing::warn!(queue, %error, "the rules of a queue make no sense"),
                _ => drop(rules.remove(queue)),
            }
            if entry.delta == 0 {
                book.send_replace(Some(rules.clone()));
            }
        }
        Ok(())
    }

    /// Takes the turn to start a job of `queue` now, or says how long it is until there is one. Turns are counted by
    /// the server's clock, whichever nodes take them.
    pub async fn take_turn(&self, queue: &str, rate: Rate) -> Result<Turn, QueueError> {
        let keys = self.jetstream.get_key_value(names::KEYS).await.map_err(|error| unavailable(error.to_string()))?;
        let interval = SignedDuration::try_from(rate.interval()).unwrap_or(SignedDuration::MAX);
        loop {
            let entry = keys.entry(names::turn_key(queue)).await.map_err(|error| unavailable(error.to_string()))?;
            let (revision, next) = match entry {
                Some(entry) => (entry.revision, std::str::from_utf8(&entry.value).ok().and_then(|at| at.parse().ok())),
                None => (0, None),
            };
            let now = self.now().await?;
            // One that is further away was counted under another rate.
            let next = next.filter(|next: &Timestamp| next.duration_since(now) <= interval);
            if let Some(next) = next.filter(|next| *next > now) {
                return Ok(Turn::In(next.duration_since(now).unsigned_abs()));
            }
            // Whoever waited for a turn comes a little late, which shall not add up.
            let turn = next.filter(|next| now.duration_since(*next) < LATE).unwrap_or(now);
            let after = turn.checked_add(interval).map_err(|error| unavailable(error.to_string()))?;
            match keys.update(names::turn_key(queue), after.to_string().into(), revision).await {
                Ok(_) => return Ok(Turn::Taken),
                // Somebody else took this one.
                Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {}
                Err(error) => return Err(unavailable(error.to_string())),
            }
        }
    }
}
