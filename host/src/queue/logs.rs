//! Carries what jobs log: guests write, a task gathers and publishes, anybody reads.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_nats::{
    Client,
    jetstream::{
        Context,
        consumer::{DeliverPolicy, pull::OrderedConfig},
    },
};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use wasmjob_runtime::{LogSink, LogStream};

use super::{
    Broker, QueueError,
    direct::{self, Batch},
    names,
};
use crate::wire::JobId;

/// Pieces that may wait to be published; beyond them a job's log has gaps, which are counted.
const WAITING_MAX: usize = 4_096;
/// Bytes of a piece: with `WAITING_MAX`, what logs take of a node's memory while NATS is slow.
const PIECE_BYTES: usize = 8 * 1024;
/// How long lines are gathered before they are published together.
const GATHER: Duration = Duration::from_millis(50);
/// Bytes of one message of log lines.
const MESSAGE_BYTES: usize = 64 * 1024;

/// A piece of a job's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Which of the job's streams.
    pub stream: LogStream,
    /// The attempt that wrote it.
    pub attempt: u32,
    /// What it wrote. Bytes that are no UTF-8 were replaced.
    pub text: String,
}

/// The node's end: takes pieces from guests and publishes them in the background.
#[derive(Clone)]
pub struct LogWriter {
    send: mpsc::Sender<(JobId, LogLine)>,
    dropped: Arc<dyn Fn(u64) + Send + Sync>,
}

/// The log of one attempt.
struct AttemptLog {
    writer: LogWriter,
    job: JobId,
    attempt: u32,
    /// The beginning of a character of standard error, of which the rest was not written yet.
    begun: Mutex<Vec<u8>>,
}

impl LogWriter {
    /// Starts the task that publishes. `dropped` hears of bytes that came too fast.
    pub fn start(client: Client, dropped: impl Fn(u64) + Send + Sync + 'static) -> Self {
        let (send, receive) = mpsc::channel(WAITING_MAX);
        tokio::spawn(publish_all(client, receive));
        LogWriter { send, dropped: Arc::new(dropped) }
    }

    /// Where an attempt writes to.
    pub fn of_attempt(&self, job: JobId, attempt: u32) -> Arc<dyn LogSink> {
        Arc::new(AttemptLog { writer: self.clone(), job, attempt, begun: Mutex::default() })
    }
}

impl AttemptLog {
    fn send(&self, stream: LogStream, piece: &[u8]) {
        let line = LogLine { stream, attempt: self.attempt, text: String::from_utf8_lossy(piece).into_owned() };
        if self.writer.send.try_send((self.job, line)).is_err() {
            (self.writer.dropped)(piece.len() as u64);
        }
    }
}

impl LogSink for AttemptLog {
    fn write(&self, stream: LogStream, bytes: &[u8]) {
        if stream != LogStream::Stderr {
            return pieces(bytes).for_each(|piece| self.send(stream, piece));
        }
        // Pieces of standard error end anywhere.
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = [std::mem::take(&mut *begun).as_slice(), bytes].concat();
        let (whole, rest) = bytes.split_at(bytes.len() - incomplete(&bytes));
        pieces(whole).for_each(|piece| self.send(stream, piece));
        begun.extend_from_slice(rest);
    }
}

impl Drop for AttemptLog {
    fn drop(&mut self) {
        let begun = std::mem::take(self.begun.get_mut().unwrap_or_else(PoisonError::into_inner));
        if !begun.is_empty() {
            self.send(LogStream::Stderr, &begun);
        }
    }
}

/// Bytes as pieces that end with a character, if they are text.
fn pieces(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let first = &rest[..rest.len().min(PIECE_BYTES)];
        let cut = if first.len() < rest.len() { incomplete(first) } else { 0 };
        let (piece, left) = rest.split_at(first.len() - cut);
        rest = left;
        (!piece.is_empty()).then_some(piece)
    })
}

/// How many bytes at the end are the beginning of a character: at most 3.
fn incomplete(bytes: &[u8]) -> usize {
    let tail = &bytes[bytes.len().saturating_sub(3)..];
    let begins = |(at, byte): (usize, &u8)| {
        let length = match byte {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => return None,
        };
        let goes_on = tail[at + 1..].iter().all(|byte| byte & 0xc0 == 0x80);
        Some(tail.len() - at).filter(|there| goes_on && *there < length)
    };
    tail.iter().enumerate().rev().find_map(begins).unwrap_or(0)
}

async fn publish_all(client: Client, mut receive: mpsc::Receiver<(JobId, LogLine)>) {
    let mut waiting = Vec::new();
    while receive.recv_many(&mut waiting, WAITING_MAX).await > 0 {
        // What is written within a moment goes together.
        tokio::time::sleep(GATHER).await;
        while waiting.len() < WAITING_MAX
            && let Ok(next) = receive.try_recv()
        {
            waiting.push(next);
        }
        for (job, message) in messages(&mut waiting) {
            if let Err(error) = client.publish(names::log(job), message).await {
                tracing::debug!(%job, %error, "log lines were not published");
            }
        }
    }
}

/// Log lines as messages: runs of one job's lines, one JSON object a line.
fn messages(waiting: &mut Vec<(JobId, LogLine)>) -> Vec<(JobId, Bytes)> {
    let mut messages: Vec<(JobId, Vec<u8>)> = Vec::new();
    for (job, line) in waiting.drain(..) {
        let Ok(mut json) = serde_json::to_vec(&line) else { continue };
        json.push(b'\n');
        match messages.iter_mut().rev().find(|(of, _)| *of == job) {
            Some((_, message)) if message.len() + json.len() <= MESSAGE_BYTES => message.append(&mut json),
            _ => messages.push((job, json)),
        }
    }
    messages.into_iter().map(|(job, message)| (job, message.into())).collect()
}

/// Reads a job's log.
pub struct LogReader;

impl LogReader {
    /// What there is now from the message with this sequence on, oldest first.
    pub async fn so_far(broker: &Broker, job: JobId, mut from: u64) -> Result<Vec<LogLine>, QueueError> {
        let mut lines = Vec::new();
        loop {
            let log = names::log(job);
            let Batch { messages, is_last } =
                direct::batch(&broker.client, names::LOGS, &log, from, direct::BATCH).await?;
            from = messages.last().map_or(from, |last| last.sequence + 1);
            lines.extend(messages.iter().flat_map(|message| parse(&message.payload)));
            if is_last {
                return Ok(lines);
            }
        }
    }

    /// What there is now and what comes, until the caller stops listening: lines, and the sequence of their message.
    pub async fn follow(
        jetstream: &Context,
        job: JobId,
    ) -> Result<impl futures_util::Stream<Item = (u64, Vec<LogLine>)> + Unpin + use<>, QueueError> {
        let unavailable = |reason: String| QueueError::Unavailable { what: format!("the log of job {job}"), reason };
        let config = OrderedConfig {
            filter_subject: names::log(job),
            deliver_policy: DeliverPolicy::All,
            ..OrderedConfig::default()
        };
        let stream = jetstream.get_stream_no_info(names::LOGS).await.map_err(|error| unavailable(error.to_string()))?;
        let consumer = stream.create_consumer(config).await.map_err(|error| unavailable(error.to_string()))?;
        let messages = consumer.messages().await.map_err(|error| unavailable(error.to_string()))?;
        let lines = messages.filter_map(async |message| {
            let message = message.ok()?;
            let sequence = message.info().ok()?.stream_sequence;
            Some((sequence, parse(&message.payload)))
        });
        Ok(Box::pin(lines))
    }
}

fn parse(message: &[u8]) -> Vec<LogLine> {
    message.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn text_is_whole_wherever_it_was_cut() {
        let (send, mut receive) = mpsc::channel(WAITING_MAX);
        let writer = LogWriter { send, dropped: Arc::new(|_| panic!("there is room")) };
        let mut said = |bytes: &[u8], cut: usize| {
            let log = writer.of_attempt(crate::wire::new_job_id(), 1);
            bytes.chunks(cut).for_each(|piece| log.write(LogStream::Stderr, piece));
            drop(log);
            let lines: Vec<LogLine> = std::iter::from_fn(|| Some(receive.try_recv().ok()?.1)).collect();
            assert!(lines.iter().all(|line| line.text.len() <= PIECE_BYTES));
            lines.into_iter().map(|line| line.text).collect::<String>()
        };
        let text = "aä€😀".repeat(1_000);
        for cut in [1, 2, 3, 5, 7, 4_096, 8_193, 100_000] {
            assert!(said(text.as_bytes(), cut) == text, "cut after {cut} bytes");
        }
        // What is no text is replaced, and what is only begun is not kept back for ever.
        assert_eq!(said(b"\xff\xf0\x9f", 3), "\u{fffd}\u{fffd}");
        assert_eq!(incomplete(b"caf\xe9\n"), 0);
    }
}
