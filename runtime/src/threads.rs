//! Threads that run guests and nothing else.
//!
//! A guest that spins can delay only its own thread: the host's timers, heartbeats and cancels run
//! elsewhere. Where there are more of them than processors they still share those with the host, so
//! they yield to it. Each thread has a small runtime of its own for the guest's timers and deadline.
//!
//! The thread that was used last is used first: what it needs is still in the processor's caches, and threads
//! that are never needed cost no memory. No more threads are woken at a time than there are processors: of many
//! short tasks, most are taken by a thread that has just ended one.

use std::{
    collections::VecDeque,
    io, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle, Thread},
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

struct Queue {
    state: Mutex<QueueState>,
    /// Threads that may be on their way to a task at the same time.
    waking_max: usize,
}

#[derive(Default)]
struct QueueState {
    tasks: VecDeque<Task>,
    /// Threads that wait for a task, the one that began last at the end.
    idle: Vec<Thread>,
    /// Threads that were woken and have not looked yet.
    waking: usize,
    closed: bool,
}

impl Threads {
    pub(crate) fn start(count: usize) -> io::Result<Self> {
        let waking_max = thread::available_parallelism().map_or(1, usize::from);
        let queue = Arc::new(Queue { state: Mutex::default(), waking_max });
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
        let task = Box::new(task);
        let mut state = self.queue.lock();
        state.tasks.push_back(task);
        let woken = self.queue.next_to_wake(&mut state);
        drop(state);
        if let Some(thread) = woken {
            thread.unpark();
        }
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
        let idle = mem::take(&mut state.idle);
        drop(state);
        idle.iter().for_each(Thread::unpark);
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

    /// The thread to wake, if there is a task that nobody is on the way to. Whoever calls this wakes it.
    fn next_to_wake(&self, state: &mut QueueState) -> Option<Thread> {
        let wanted = state.waking < self.waking_max.min(state.tasks.len());
        let woken = wanted.then(|| state.idle.pop()).flatten();
        state.waking += usize::from(woken.is_some());
        woken
    }

    /// Waits for a task; `None` at the end.
    fn next(&self) -> Option<Task> {
        let own = thread::current();
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(task) = state.tasks.pop_front() {
                let next = self.next_to_wake(&mut state);
                drop(state);
                if let Some(thread) = next {
                    thread.unpark();
                }
                return Some(task);
            }
            state.idle.push(own.clone());
            state = self.wait(state, &own);
        }
    }

    /// Waits until this thread is not among the idle ones any more.
    fn wait<'a>(&'a self, mut state: MutexGuard<'a, QueueState>, own: &Thread) -> MutexGuard<'a, QueueState> {
        loop {
            drop(state);
            thread::park();
            state = self.lock();
            // A thread may also wake for no reason.
            if state.idle.iter().all(|thread| thread.id() != own.id()) {
                state.waking = state.waking.saturating_sub(1);
                return state;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Barrier, mpsc};

    use super::*;

    #[test]
    fn tasks_that_wait_for_each_other_all_run() {
        let count = 4 * thread::available_parallelism().map_or(1, usize::from);
        let threads = Threads::start(count).unwrap();
        let barrier = Arc::new(Barrier::new(count));
        let (ended, ends) = mpsc::channel();
        for _round in 0..50 {
            for _ in 0..count {
                let (barrier, ended) = (barrier.clone(), ended.clone());
                threads.run(move |_| {
                    barrier.wait();
                    ended.send(()).unwrap();
                });
            }
            assert_eq!(ends.iter().take(count).count(), count);
        }
    }

    #[test]
    fn every_task_runs_once_however_many_there_are() {
        let threads = Threads::start(3).unwrap();
        let (ended, ends) = mpsc::channel();
        for number in 0..1_000 {
            let ended = ended.clone();
            threads.run(move |_| ended.send(number).unwrap());
        }
        let mut all: Vec<i32> = ends.iter().take(1_000).collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..1_000));
        drop(threads);
        assert!(ends.try_recv().is_err());
    }
}
