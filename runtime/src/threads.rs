//! Threads that run guests and nothing else.
//!
//! A guest that spins can delay only its own thread: the host's timers, heartbeats and cancels run
//! elsewhere. Each thread has a small runtime of its own for the guest's timers and deadline.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use tokio::{
    runtime::{Builder, Handle, Runtime},
    task::yield_now,
};

type Task = Box<dyn FnOnce(&Runtime) + Send>;

/// Turns that tasks are given to end. Each is enough for 61 of them; an attempt has about a hundred.
const END_TURNS_MAX: usize = 64;

/// Waits until the tasks of an attempt that is over are gone, and their connections with them: a task
/// that is aborted goes when it would be its turn.
pub(crate) async fn end_tasks() {
    let metrics = Handle::current().metrics();
    for _ in 0..END_TURNS_MAX {
        if metrics.num_alive_tasks() == 0 {
            return;
        }
        yield_now().await;
    }
}

/// A fixed number of threads that take tasks in the order they came.
pub(crate) struct Threads {
    queue: Arc<Queue>,
    handles: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    wake: Condvar,
}

#[derive(Default)]
struct QueueState {
    tasks: VecDeque<Task>,
    closed: bool,
}

impl Threads {
    pub(crate) fn start(count: usize) -> io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let mut handles = Vec::with_capacity(count);
        for number in 0..count {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let queue = queue.clone();
            let name = format!("guest-{number}");
            handles.push(thread::Builder::new().name(name).spawn(move || queue.work(&runtime))?);
        }
        Ok(Threads { queue, handles })
    }

    /// Runs `task` on the next thread that is free.
    pub(crate) fn run(&self, task: impl FnOnce(&Runtime) + Send + 'static) {
        self.queue.lock().tasks.push_back(Box::new(task));
        self.queue.wake.notify_one();
    }
}

impl Drop for Threads {
    /// Tasks that have not started are dropped; those that run are waited for.
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.closed = true;
        state.tasks.clear();
        drop(state);
        self.queue.wake.notify_all();
        for handle in self.handles.drain(..) {
            // A guest thread may be the one that drops the last reference to its own pool.
            if handle.thread().id() != thread::current().id() {
                let _ = handle.join();
            }
        }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, runtime: &Runtime) {
        while let Some(task) = self.next() {
            task(runtime);
        }
    }

    fn next(&self) -> Option<Task> {
        let mut state = self.lock();
        loop {
            if let Some(task) = state.tasks.pop_front() {
                return Some(task);
            }
            if state.closed {
                return None;
            }
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
