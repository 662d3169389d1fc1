//! Where schedules, their pasts and their next ticks are kept.

use async_nats::{
    header,
    jetstream::{
        kv::{Entry, Operation, Store},
        message::PublishMessage,
        stream::DirectGetErrorKind,
    },
};
use bytes::Bytes;
use futures_util::TryStreamExt;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Broker, QueueError, names};
use crate::schedule::{History, Schedule};

/// A tick that waits for its time, or has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tick {
    /// Whose.
    pub schedule: String,
    /// The revision of its definition; a tick of an older one counts for nothing.
    pub revision: u64,
    /// When it is due.
    pub due: Timestamp,
}

/// A schedule as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// Its definition.
    pub schedule: Schedule,
    /// The revision of that.
    pub revision: u64,
}

fn unavailable(reason: String) -> QueueError {
    QueueError::Unavailable { what: "the schedules".into(), reason }
}

impl Broker {
    async fn schedules(&self) -> Result<Store, QueueError> {
        self.jetstream.get_key_value(names::SCHEDULES).await.map_err(|error| unavailable(error.to_string()))
    }

    async fn entry(&self, key: String) -> Result<Option<Entry>, QueueError> {
        let entry = self.schedules().await?.entry(key).await.map_err(|error| unavailable(error.to_string()))?;
        Ok(entry.filter(|entry| entry.operation == Operation::Put))
    }

    /// The schedule of this name.
    pub async fn schedule(&self, name: &str) -> Result<Option<Kept>, QueueError> {
        let Some(entry) = self.entry(names::schedule_key(name)).await? else { return Ok(None) };
        let schedule = serde_json::from_slice(&entry.value).map_err(|error| unavailable(format!("{name}: {error}")))?;
        Ok(Some(Kept { schedule, revision: entry.revision }))
    }

    /// The revision that a new definition of this name comes after: 0, or that of its removal.
    pub async fn schedule_revision(&self, name: &str) -> Result<u64, QueueError> {
        let entry = self.schedules().await?.entry(names::schedule_key(name)).await;
        Ok(entry.map_err(|error| unavailable(error.to_string()))?.map_or(0, |entry| entry.revision))
    }

    /// The names of all schedules.
    pub async fn schedule_names(&self) -> Result<Vec<String>, QueueError> {
        let keys = self.schedules().await?.keys().await.map_err(|error| unavailable(error.to_string()))?;
        let keys: Vec<String> = keys.try_collect().await.map_err(|error| unavailable(error.to_string()))?;
        let mut found: Vec<String> =
            keys.iter().filter_map(|key| names::schedule_of_key(key)).map(str::to_owned).collect();
        found.sort();
        Ok(found)
    }

    /// Keeps a definition over the one with `revision` (0: there is none), and stores its next tick.
    /// Errors: `Unavailable`, also if somebody else changed it meanwhile: look at it anew.
    pub async fn keep_schedule(
        &self,
        schedule: &Schedule,
        revision: u64,
        next: Option<Timestamp>,
    ) -> Result<(), QueueError> {
        let value = Bytes::from(serde_json::to_vec(schedule).expect("a schedule has only string keys"));
        let kept = self.schedules().await?.update(names::schedule_key(&schedule.name), value, revision).await;
        let revision = kept.map_err(|error| unavailable(format!("{} changed meanwhile: {error}", schedule.name)))?;
        // The tick of the definition before this one counts for nothing, and this one replaces it.
        match next {
            Some(due) => self.send_tick(&Tick { schedule: schedule.name.clone(), revision, due }).await,
            None => {
                self.forget_tick(&schedule.name).await;
                Ok(())
            }
        }
    }

    /// Removes a schedule and its past.
    pub async fn remove_schedule(&self, name: &str) -> Result<(), QueueError> {
        let schedules = self.schedules().await?;
        for key in [names::schedule_key(name), names::history_key(name)] {
            schedules.purge(key).await.map_err(|error| unavailable(error.to_string()))?;
        }
        self.forget_tick(name).await;
        Ok(())
    }

    /// What is known of a schedule's past.
    pub async fn history(&self, name: &str) -> Result<History, QueueError> {
        let entry = self.schedules().await?.entry(names::history_key(name)).await;
        let entry = entry.map_err(|error| unavailable(error.to_string()))?;
        let revision = entry.as_ref().map_or(0, |entry| entry.revision);
        let known = entry.filter(|entry| entry.operation == Operation::Put);
        let history = known.and_then(|entry| serde_json::from_slice(&entry.value).ok());
        Ok(History { revision, ..history.unwrap_or_default() })
    }

    /// Keeps what is known of a schedule's past. Errors: also if somebody else did since it was read, who may have
    /// decided about the same tick.
    pub async fn keep_history(&self, name: &str, history: &mut History) -> Result<(), QueueError> {
        let value = Bytes::from(serde_json::to_vec(history).expect("a history has only string keys"));
        let kept = self.schedules().await?.update(names::history_key(name), value, history.revision).await;
        history.revision = kept.map_err(|error| unavailable(format!("the past of {name} changed: {error}")))?;
        Ok(())
    }

    /// Lets the server deliver a tick when it is due; it replaces the one that waits.
    pub async fn send_tick(&self, tick: &Tick) -> Result<(), QueueError> {
        let Tick { schedule, due, .. } = tick;
        let payload = Bytes::from(serde_json::to_vec(tick).expect("a tick has only string keys"));
        let message = PublishMessage::build()
            .payload(payload)
            .header(header::NATS_SCHEDULE, format!("@at {due}").as_str())
            .header(header::NATS_SCHEDULE_TARGET, names::tick_due(schedule).as_str());
        let sent = self.publish(names::tick_waiting(schedule), message).await;
        sent.map(drop).map_err(|error| super::publish_error(&error, format!("the next tick of {schedule}")))
    }

    /// Whether a tick of this schedule, as it is defined by this revision, waits or has come and is being handled.
    pub async fn has_tick(&self, name: &str, revision: u64) -> Result<bool, QueueError> {
        let stream = self.jetstream.get_stream_no_info(names::TICKS).await;
        let stream = stream.map_err(|error| unavailable(error.to_string()))?;
        for subject in [names::tick_waiting(name), names::tick_due(name)] {
            match stream.direct_get_last_for_subject(subject).await {
                // That of an older definition may have taken the place of this one's, if it was handled just then.
                Ok(message) => {
                    let tick = serde_json::from_slice::<Tick>(&message.payload);
                    if tick.is_ok_and(|tick| tick.revision == revision) {
                        return Ok(true);
                    }
                }
                Err(error) if error.kind() == DirectGetErrorKind::NotFound => {}
                Err(error) => return Err(unavailable(error.to_string())),
            }
        }
        Ok(false)
    }

    /// One that comes all the same is of a definition that is gone.
    async fn forget_tick(&self, name: &str) {
        let Ok(stream) = self.jetstream.get_stream_no_info(names::TICKS).await else { return };
        if let Err(error) = stream.purge().filter(names::tick_waiting(name)).await {
            tracing::debug!(name, %error, "the tick of the schedule stays until it is due");
        }
    }
}
