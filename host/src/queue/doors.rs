//! How many of a queue's free slots ask for a job at the same time.
//!
//! Only a few: each time a queue runs empty the server goes through all requests that it holds for it, which is
//! what a single job then waits for. And those who got a job are replaced several at a time: one that asks at once
//! is in the way of the job that was just taken.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;

/// Slots that may ask at the same time.
const DOORS: usize = 8;
/// Doors that open again together. So many fewer may ask for a while.
const TOGETHER: usize = 4;

/// Where free slots wait until it is their turn to ask.
#[derive(Debug)]
pub(super) struct Doors {
    open: Semaphore,
    /// How often one was left.
    left: AtomicUsize,
}

/// The right to ask, until this is dropped.
pub(super) struct Door<'a>(&'a Doors);

impl Doors {
    /// For the slots of one queue.
    pub(super) fn new() -> Self {
        Doors { open: Semaphore::new(DOORS), left: AtomicUsize::new(0) }
    }

    /// Waits for a door. First come, first served.
    pub(super) async fn enter(&self) -> Door<'_> {
        // It is never closed.
        if let Ok(permit) = self.open.acquire().await {
            permit.forget();
        }
        Door(self)
    }
}

impl Drop for Door<'_> {
    fn drop(&mut self) {
        if self.0.left.fetch_add(1, Ordering::Relaxed) % TOGETHER == TOGETHER - 1 {
            self.0.open.add_permits(TOGETHER);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn enter(doors: &Doors) -> Option<Door<'_>> {
        doors.enter().now_or_never()
    }

    #[test]
    fn only_a_few_ask_and_those_who_got_a_job_are_replaced_together() {
        let doors = Doors::new();
        let mut asking: Vec<Door<'_>> = std::iter::from_fn(|| enter(&doors)).take(100).collect();
        assert_eq!(asking.len(), DOORS);
        for _ in 1..TOGETHER {
            asking.pop();
            assert!(enter(&doors).is_none());
        }
        asking.pop();
        asking.extend(std::iter::from_fn(|| enter(&doors)).take(100));
        assert_eq!(asking.len(), DOORS);
    }

    #[test]
    fn a_node_of_few_slots_never_waits() {
        let doors = Doors::new();
        let mut asking: Vec<Door<'_>> = (0..DOORS - TOGETHER + 1).filter_map(|_| enter(&doors)).collect();
        for job in 0..100 {
            asking.remove(job % asking.len());
            asking.push(enter(&doors).expect("a door is open"));
        }
    }
}
