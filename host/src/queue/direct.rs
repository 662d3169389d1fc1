//! Reads many messages of a stream at once, without a consumer (a work queue allows only its own).

use std::time::Duration;

use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::QueueError;

/// Messages of one request.
const BATCH: usize = 500;
/// How long the server may take for the next message.
const PATIENCE: Duration = Duration::from_secs(5);

/// A message as it is stored.
pub(super) struct StoredMessage {
    pub(super) sequence: u64,
    pub(super) headers: HeaderMap,
    pub(super) payload: Bytes,
}

/// Where to begin.
#[derive(Clone)]
pub(super) enum From {
    /// At this sequence or after.
    Sequence(u64),
    /// At this time (RFC 3339) or after.
    Time(String),
}

/// The first message of `stream` on subjects that match `filter`.
pub(super) async fn first(
    client: &Client,
    stream: &str,
    filter: &str,
    from: From,
) -> Result<Option<StoredMessage>, QueueError> {
    Ok(some(client, stream, filter, from, 1).await?.pop())
}

/// The last message of each subject of `stream` that matches `filter`.
pub(super) async fn all(client: &Client, stream: &str, filter: &str) -> Result<Vec<StoredMessage>, QueueError> {
    let (mut next, mut all) = (1, Vec::new());
    loop {
        let batch = batch(client, stream, filter, From::Sequence(next)).await?;
        let Some(last) = batch.last() else { return Ok(all) };
        next = last.sequence + 1;
        let complete = batch.len() < BATCH;
        all.extend(batch);
        if complete {
            return Ok(all);
        }
    }
}

/// Up to `BATCH` messages of `stream` on subjects that match `filter`, oldest first.
pub(super) async fn batch(
    client: &Client,
    stream: &str,
    filter: &str,
    from: From,
) -> Result<Vec<StoredMessage>, QueueError> {
    some(client, stream, filter, from, BATCH).await
}

async fn some(
    client: &Client,
    stream: &str,
    filter: &str,
    from: From,
    max: usize,
) -> Result<Vec<StoredMessage>, QueueError> {
    let unavailable = |reason: String| QueueError::Unavailable { what: format!("messages of {stream}"), reason };
    let inbox = client.new_inbox();
    let mut replies = client.subscribe(inbox.clone()).await.map_err(|error| unavailable(error.to_string()))?;
    let request = request(filter, from, max).to_string();
    let subject = format!("$JS.API.DIRECT.GET.{stream}");
    let sent = client.publish_with_reply(subject, inbox, request.into()).await;
    sent.map_err(|error| unavailable(error.to_string()))?;
    let mut messages = Vec::new();
    loop {
        let Ok(Some(reply)) = timeout(PATIENCE, replies.next()).await else {
            return Err(unavailable("no answer in time".into()));
        };
        match reply.status.map(|status| status.as_u16()) {
            // The end of the batch, or nothing there.
            Some(204 | 404) => return Ok(messages),
            Some(code) => return Err(unavailable(format!("status {code}"))),
            None => messages.extend(stored(reply)),
        }
    }
}

fn request(filter: &str, from: From, max: usize) -> Value {
    match from {
        From::Sequence(sequence) => json!({ "batch": max, "seq": sequence, "next_by_subj": filter }),
        From::Time(time) => json!({ "batch": max, "start_time": time, "next_by_subj": filter }),
    }
}

fn stored(reply: async_nats::Message) -> Option<StoredMessage> {
    let headers = reply.headers?;
    let sequence = headers.get("Nats-Sequence")?.as_str().parse().ok()?;
    Some(StoredMessage { sequence, headers, payload: reply.payload })
}
