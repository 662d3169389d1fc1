//! Reads many messages of a stream at once, without a consumer (a work queue allows only its own).

use std::time::Duration;

use async_nats::{Client, HeaderMap, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::QueueError;

/// Messages of one request at most. Each request of several has the server count all messages that are left, so few
/// are better.
pub(super) const BATCH: usize = 2_000;
/// Bytes of one request, or one message: all may come at once, and the connection has other things to do as well.
const BATCH_BYTES: usize = 8 << 20;
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
    match next(&mut replies, stream).await? {
        Next::Message(message) => Ok(Some(message)),
        Next::End { .. } => Ok(None),
    }
}

/// Messages that came together.
pub(super) struct Batch {
    /// The oldest first.
    pub(super) messages: Vec<StoredMessage>,
    /// Whether there were no more then.
    pub(super) is_last: bool,
}

/// The last message of each subject of `stream` that matches `filter`.
pub(super) async fn all(client: &Client, stream: &str, filter: &str) -> Result<Vec<StoredMessage>, QueueError> {
    let mut all: Vec<StoredMessage> = Vec::new();
    loop {
        let start = all.last().map_or(1, |last| last.sequence + 1);
        let Batch { messages, is_last } = batch(client, stream, filter, start, BATCH).await?;
        all.extend(messages);
        if is_last {
            return Ok(all);
        }
    }
}

/// Messages of `stream` on subjects that match `filter`, up to so many from a sequence on.
pub(super) async fn batch(
    client: &Client,
    stream: &str,
    filter: &str,
    start: u64,
    max: usize,
) -> Result<Batch, QueueError> {
    let mut request = request(filter, From::Sequence(start));
    request["batch"] = max.into();
    request["max_bytes"] = BATCH_BYTES.into();
    let mut replies = ask(client, stream, request).await?;
    let mut messages = Vec::new();
    loop {
        match next(&mut replies, stream).await? {
            Next::Message(message) => messages.push(message),
            Next::End { left } => return Ok(Batch { is_last: left == 0 || messages.is_empty(), messages }),
        }
    }
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

/// A part of an answer.
enum Next {
    Message(StoredMessage),
    /// There are no more messages, or so many that were not asked for.
    End {
        left: u64,
    },
}

async fn next(replies: &mut Subscriber, stream: &str) -> Result<Next, QueueError> {
    let Ok(Some(reply)) = timeout(PATIENCE, replies.next()).await else {
        return Err(unavailable(stream, "no answer in time".into()));
    };
    match reply.status.map(|status| status.as_u16()) {
        Some(204 | 404) => Ok(Next::End { left: left(&reply).unwrap_or(0) }),
        Some(code) => Err(unavailable(stream, format!("status {code}"))),
        None => {
            stored(reply).map(Next::Message).ok_or_else(|| unavailable(stream, "a message without a sequence".into()))
        }
    }
}

/// How many messages come after those of a batch.
fn left(end: &async_nats::Message) -> Option<u64> {
    end.headers.as_ref()?.get("Nats-Num-Pending")?.as_str().parse().ok()
}

fn unavailable(stream: &str, reason: String) -> QueueError {
    QueueError::Unavailable { what: format!("messages of {stream}"), reason }
}

fn stored(reply: async_nats::Message) -> Option<StoredMessage> {
    let headers = reply.headers?;
    let sequence = headers.get("Nats-Sequence")?.as_str().parse().ok()?;
    Some(StoredMessage { sequence, headers, payload: reply.payload })
}
