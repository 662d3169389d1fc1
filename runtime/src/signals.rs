//! What passes between an attempt that runs and the host while it runs: a cancel one way, progress
//! the other.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::Notify;

use crate::report::Progress;

/// Shared by a running attempt and whoever watches it.
#[derive(Default)]
pub struct Signals {
    cancelled: AtomicBool,
    wake: Notify,
    progress: Mutex<Option<Progress>>,
}

impl Signals {
    /// Asks the attempt to end. The guest can see it at once and is stopped soon after.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        self.wake.notify_waiters();
    }

    /// Whether somebody asked the attempt to end.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Waits until somebody asks.
    pub async fn cancelled(&self) {
        let woken = self.wake.notified();
        tokio::pin!(woken);
        // Listening starts before the look, so a cancel between the two is not missed.
        woken.as_mut().enable();
        if !self.is_cancelled() {
            woken.await;
        }
    }

    /// What the guest last told about how far it is.
    pub fn progress(&self) -> Option<Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_progress(&self, progress: Progress) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
    }
}
