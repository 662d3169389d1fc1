//! The slots of a queue, several to a task.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::{task::JoinSet, time::sleep};

/// Slots that share a task. When the server answers many of them at once, what they say next goes out in one write:
/// a task each would have the connection write for nearly every message.
const SHARE_A_TASK: usize = 16;
/// How long a slot that panicked rests.
const REST: Duration = Duration::from_millis(100);

/// Starts so many slots, each of which does `work` until that ends.
pub fn start_slots<F>(tasks: &mut JoinSet<()>, slots: usize, work: impl Fn() -> F + Clone + Send + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    for first in (0..slots).step_by(SHARE_A_TASK) {
        let shared = SHARE_A_TASK.min(slots - first);
        let mut shared: FuturesUnordered<_> = (0..shared).map(|_| steadily(work.clone())).collect();
        tasks.spawn(async move { while shared.next().await.is_some() {} });
    }
}

/// Does `work` until it ends, also after a panic. A job that the slot had then comes again when its lease has
/// ended, as that of a node that died.
async fn steadily<F: Future<Output = ()>>(work: impl Fn() -> F) {
    while AssertUnwindSafe(work()).catch_unwind().await.is_err() {
        tracing::error!("a slot panicked, which is a mistake in wasmjob; it starts again");
        sleep(REST).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use tokio::{sync::Barrier, time::timeout};

    use super::*;

    #[tokio::test]
    async fn all_slots_work_at_the_same_time() {
        let slots = 2 * SHARE_A_TASK + 1;
        let (all, mut tasks) = (Arc::new(Barrier::new(slots)), JoinSet::new());
        start_slots(&mut tasks, slots, move || {
            let all = all.clone();
            async move {
                all.wait().await;
            }
        });
        let ended = timeout(Duration::from_secs(10), tasks.join_all()).await;
        assert_eq!(ended.expect("each waits for all others").len(), 3);
    }

    #[tokio::test]
    async fn a_slot_that_panics_starts_again_and_the_others_go_on() {
        let (begun, mut tasks) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
        let counted = begun.clone();
        start_slots(&mut tasks, 2, move || {
            let begun = counted.clone();
            async move { assert_ne!(begun.fetch_add(1, Ordering::Relaxed), 0, "the first one has bad luck") }
        });
        tasks.join_next().await.unwrap().unwrap();
        assert_eq!(begun.load(Ordering::Relaxed), 3);
    }
}
