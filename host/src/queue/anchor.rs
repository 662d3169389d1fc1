//! The anchor: one message in each queue that is no job.
//!
//! When the last message of a stream goes, the server removes the file that it was in and makes a new one. For
//! jobs that come one by one that is a fifth of all that it does for them, and the next job waits for it. So one
//! message stays. It is sent again now and then, because it has to be in the file that is written to.

use std::sync::atomic::{AtomicU32, Ordering};

use async_nats::{Client, HeaderMap, header};
use bytes::Bytes;

use super::names;

/// Jobs after which it is sent again. A file has room for many more small ones.
const EVERY: u32 = 1_000;
/// When it would become a job. It waits for that under one subject, where each one replaces the last.
const NEVER: &str = "@at 2200-01-01T00:00:00Z";

/// Sends the anchor of one queue for all slots of a node.
#[derive(Debug)]
pub(super) struct Anchor {
    queue: String,
    jobs: AtomicU32,
}

impl Anchor {
    pub(super) fn new(queue: &str) -> Self {
        Anchor { queue: queue.to_owned(), jobs: AtomicU32::new(0) }
    }

    /// Takes note of a job, and sends the anchor if it is time. One that is lost costs nothing but time.
    pub(super) async fn count(&self, client: &Client) {
        if !self.jobs.fetch_add(1, Ordering::Relaxed).is_multiple_of(EVERY) {
            return;
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_SCHEDULE, NEVER);
        headers.insert(header::NATS_SCHEDULE_TARGET, names::Lane::usual().subject(&self.queue));
        let sent = client.publish_with_headers(names::anchor(&self.queue), headers, Bytes::new()).await;
        if let Err(error) = sent {
            tracing::debug!(%error, queue = self.queue, "the anchor could not be sent");
        }
    }
}
