//! Reads many messages of a stream at once, without a consumer (a work queue allows only its own).

use std::time::Duration;

use async_nats::{Client, HeaderMap, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::QueueError;

/// Messages of one request at most. Each request of several has the server count all messages that are left, so few
/// are better; that they are not too large for us, the server sees to.
pub(super) const BATCH: usize = 2_000;
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
    let mut replies = ask(client, stream, request(filter, from)).await?;
    next(&mut replies, stream).await
}

/// The last message of each subject of `stream` that matches `filter`.
pub(super) async fn all(client: &Client, stream: &str, filter: &str) -> Result<Vec<StoredMessage>, QueueError> {
    let (mut next, mut all) = (1, Vec::new());
    loop {
        let batch = batch(client, stream, filter, next, BATCH).await?;
        let Some(last) = batch.last() else { return Ok(all) };
        next = last.sequence + 1;
        let complete = batch.len() < BATCH;
        all.extend(batch);
        if complete {
            return Ok(all);
        }
    }
}

/// Messages of `stream` on subjects that match `filter`, up to so many from a sequence on, oldest first.
pub(super) async fn batch(
    client: &Client,
    stream: &str,
    filter: &str,
    start: u64,
    max: usize,
) -> Result<Vec<StoredMessage>, QueueError> {
    let mut request = request(filter, From::Sequence(start));
    request["batch"] = max.into();
    let mut replies = ask(client, stream, request).await?;
    let mut messages = Vec::new();
    while let Some(message) = next(&mut replies, stream).await? {
        messages.push(message);
    }
    Ok(messages)
}

fn request(filter: &str, from: From) -> Value {
    match from {
        From::Sequence(sequence) => json!({ "seq": sequence, "next_by_subj": filter }),
        From::Time(time) => json!({ "start_time": time, "next_by_subj": filter }),
    }
}

async fn ask(client: &Client, stream: &str, request: Value) -> Result<Subscriber, QueueError> {
    let inbox = client.new_inbox();
    let replies = client.subscribe(inbox.clone()).await.map_err(|error| unavailable(stream, error.to_string()))?;
    let subject = format!("$JS.API.DIRECT.GET.{stream}");
    let asked = client.publish_with_reply(subject, inbox, request.to_string().into()).await;
    asked.map_err(|error| unavailable(stream, error.to_string()))?;
    Ok(replies)
}

/// The next message of an answer, or nothing at its end.
async fn next(replies: &mut Subscriber, stream: &str) -> Result<Option<StoredMessage>, QueueError> {
    let Ok(Some(reply)) = timeout(PATIENCE, replies.next()).await else {
        return Err(unavailable(stream, "no answer in time".into()));
    };
    match reply.status.map(|status| status.as_u16()) {
        // The end of the batch, or nothing there.
        Some(204 | 404) => Ok(None),
        Some(code) => Err(unavailable(stream, format!("status {code}"))),
        None => stored(reply).map(Some).ok_or_else(|| unavailable(stream, "a message without a sequence".into())),
    }
}

fn unavailable(stream: &str, reason: String) -> QueueError {
    QueueError::Unavailable { what: format!("messages of {stream}"), reason }
}

fn stored(reply: async_nats::Message) -> Option<StoredMessage> {
    let headers = reply.headers?;
    let sequence = headers.get("Nats-Sequence")?.as_str().parse().ok()?;
    Some(StoredMessage { sequence, headers, payload: reply.payload })
}
