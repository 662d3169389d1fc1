//! Threads that run guests and nothing else.
//!
//! A guest that spins can delay only its own thread: the host's timers, heartbeats and cancels run
//! elsewhere. Where there are more of them than processors they still share those with the host, so
//! they yield to it. Each thread has a small runtime of its own for the guest's timers and deadline.

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
            let work = move || {
                yield_to_host();
                queue.work(&runtime);
            };
            handles.push(thread::Builder::new().name(name).spawn(work)?);
        }
        Ok(Threads { queue, handles })
    }

    /// Runs `task` on the next thread that is free.
    pub(crate) fn run(&self, task: impl FnOnce(&Runtime) + Send + 'static) {
        self.queue.lock().tasks.push_back(Box::new(task));
        self.queue.wake.notify_one();
    }
}

/// How much nicer than the host its guests are: a tenth of the processor time of a host thread that
/// wants the same processor, and off it as soon as one wakes. Nicer still, and a node would get
/// next to nothing done beside any other program on its machine.
#[cfg(target_os = "linux")]
const NICER: i32 = 10;

/// Lets the calling thread, and those that it starts, give way to all others of this process. For good:
/// the way back takes a privilege.
#[cfg(target_os = "linux")]
pub(crate) fn yield_to_host() {
    // On Linux a priority belongs to a thread, and "no process" is the calling one.
    let own = rustix::process::getpriority_process(None).unwrap_or(0);
    if let Err(error) = rustix::process::setpriority_process(None, own.saturating_add(NICER)) {
        tracing::warn!(%error, "guest threads keep the priority of the node, which they can delay now");
    }
}

/// Elsewhere a priority belongs to the process.
#[cfg(not(target_os = "linux"))]
pub(crate) fn yield_to_host() {}

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
