//! What time it is by the NATS server's clock, which all nodes share: a laptop's own may be minutes off, and
//! what was stored, what is due and what has expired must not depend on who looks.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use time::OffsetDateTime;
use tokio::time::Instant;

use crate::queue::{Broker, QueueError};

/// An answer that took longer says too little.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(2);

/// How far the server's clock is ahead of ours, in milliseconds.
#[derive(Debug, Default)]
pub struct ServerTime(AtomicI64);

impl ServerTime {
    /// Now, as far as is known.
    pub fn now(&self) -> OffsetDateTime {
        let ahead = time::Duration::milliseconds(self.0.load(Ordering::Relaxed));
        OffsetDateTime::now_utc().saturating_add(ahead)
    }

    /// Asks the server.
    pub async fn ask(&self, broker: &Broker) -> Result<(), QueueError> {
        let asked = (OffsetDateTime::now_utc(), Instant::now());
        let answer = broker.now().await?;
        self.learn(asked.0, asked.1.elapsed(), answer.as_millisecond());
        Ok(())
    }

    /// Takes an answer, which was given half way between question and arrival.
    fn learn(&self, asked: OffsetDateTime, round_trip: Duration, server_ms: i64) {
        if round_trip > ROUND_TRIP_MAX {
            return;
        }
        let ours = (asked + round_trip / 2).unix_timestamp_nanos() / 1_000_000;
        let ahead = i128::from(server_ms) - ours;
        self.0.store(i64::try_from(ahead).unwrap_or_default(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_minutes_off_is_set_right() {
        let time = ServerTime::default();
        let ours = OffsetDateTime::now_utc();
        let server = ours + Duration::from_secs(300);
        let millis = |time: OffsetDateTime| i64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap();
        time.learn(ours, Duration::from_millis(20), millis(server) + 10);
        let off = (time.now() - server).whole_milliseconds();
        assert!((0..1_000).contains(&off), "{off}");
        // An answer that was long on its way changes nothing.
        time.learn(ours, Duration::from_secs(60), millis(ours));
        assert!(time.now() > ours + Duration::from_secs(200));
    }
}
