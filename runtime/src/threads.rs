//! Threads that run guests and nothing else.
//!
//! A guest that spins can delay only its own thread: the host's timers, heartbeats and cancels run
//! elsewhere. Where there are more of them than processors they still share those with the host, so
//! they yield to it. Each thread has a small runtime of its own for the guest's timers and deadline.
//!
//! A thread is started when a task waits and none is free, up to one for each slot. The one that was used last
//! is used first: what it needs is still in the processor's caches. No more are woken or started at a time than
//! there are processors: of many short tasks, most are taken by a thread that has just ended one.

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

/// Is given the runtime of its thread, or why no thread could be started for it.
type Task = Box<dyn FnOnce(io::Result<&Runtime>) + Send>;

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

/// Up to so many threads that take tasks in the order they came.
pub(crate) struct Threads(Arc<Queue>);

struct Queue {
    state: Mutex<QueueState>,
    threads_max: usize,
    /// Threads that may be on their way to a task at the same time.
    coming_max: usize,
    /// How nice they are.
    niceness: i32,
}

#[derive(Default)]
struct QueueState {
    tasks: VecDeque<Task>,
    /// All threads there are.
    threads: Vec<JoinHandle<()>>,
    /// Those that wait for a task, the one that began last at the end.
    idle: Vec<Thread>,
    /// How many were woken or started and have not looked yet.
    coming: usize,
    closed: bool,
}

impl Threads {
    /// None is started yet.
    pub(crate) fn new(threads_max: usize) -> Self {
        let coming_max = thread::available_parallelism().map_or(1, usize::from);
        Threads(Arc::new(Queue { state: Mutex::default(), threads_max, coming_max, niceness: own_niceness() + NICER }))
    }

    /// Runs `task` on the next thread that is free.
    pub(crate) fn run(&self, task: impl FnOnce(io::Result<&Runtime>) + Send + 'static) {
        let task = Box::new(task);
        let mut state = self.0.lock();
        state.tasks.push_back(task);
        self.0.call_a_thread(state);
    }
}

/// How much nicer than the host its guests are: a tenth of the processor time of a host thread that
/// wants the same processor, and off it as soon as one wakes. Nicer still, and a node would get
/// next to nothing done beside any other program on its machine.
const NICER: i32 = 10;

/// How nice the calling thread is. On Linux that belongs to a thread, and "no process" is the calling one.
#[cfg(target_os = "linux")]
fn own_niceness() -> i32 {
    rustix::process::getpriority_process(None).unwrap_or(0)
}

/// Makes the calling thread, and those that it starts, so nice. For good: the way back takes a privilege.
#[cfg(target_os = "linux")]
fn be_nice(niceness: i32) {
    if let Err(error) = rustix::process::setpriority_process(None, niceness) {
        tracing::warn!(%error, "guest threads keep the priority of the node, which they can delay now");
    }
}

/// Elsewhere a priority belongs to the process.
#[cfg(not(target_os = "linux"))]
fn own_niceness() -> i32 {
    0
}

#[cfg(not(target_os = "linux"))]
fn be_nice(_niceness: i32) {}

impl Drop for Threads {
    /// Tasks that have not started are dropped; those that run are waited for.
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.closed = true;
        state.tasks.clear();
        let (idle, threads) = (mem::take(&mut state.idle), mem::take(&mut state.threads));
        drop(state);
        idle.iter().for_each(Thread::unpark);
        for thread in threads {
            // A guest thread may be the one that drops the last reference to its own pool.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes or starts a thread, if there is a task that none is on the way to.
    fn call_a_thread(self: &Arc<Self>, mut state: MutexGuard<'_, QueueState>) {
        if state.coming >= self.coming_max.min(state.tasks.len()) {
            return;
        }
        if let Some(thread) = state.idle.pop() {
            state.coming += 1;
            drop(state);
            return thread.unpark();
        }
        let number = state.threads.len();
        if number == self.threads_max {
            return;
        }
        match self.start_thread(number) {
            Ok(thread) => {
                state.coming += 1;
                state.threads.push(thread);
            }
            Err(error) => {
                let task = state.tasks.pop_back();
                drop(state);
                if let Some(task) = task {
                    task(Err(error));
                }
            }
        }
    }

    fn start_thread(self: &Arc<Self>, number: usize) -> io::Result<JoinHandle<()>> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let queue = self.clone();
        let work = move || {
            be_nice(queue.niceness);
            queue.arrive();
            queue.work(&runtime);
        };
        thread::Builder::new().name(format!("guest-{number}")).spawn(work)
    }

    fn arrive(&self) {
        let mut state = self.lock();
        state.coming = state.coming.saturating_sub(1);
    }

    fn work(self: &Arc<Self>, runtime: &Runtime) {
        while let Some(task) = self.next() {
            task(Ok(runtime));
        }
    }

    /// Waits for a task; `None` at the end.
    fn next(self: &Arc<Self>) -> Option<Task> {
        let own = thread::current();
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(task) = state.tasks.pop_front() {
                self.call_a_thread(state);
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
                state.coming = state.coming.saturating_sub(1);
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
        let threads = Threads::new(count);
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
        let threads = Threads::new(3);
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

    impl Threads {
        fn are_all_idle(&self) -> bool {
            let state = self.0.lock();
            state.idle.len() == state.threads.len()
        }
    }

    #[test]
    fn no_more_threads_are_started_than_are_needed() {
        let threads = Threads::new(8);
        let (ended, ends) = mpsc::channel();
        for _ in 0..50 {
            let ended = ended.clone();
            threads.run(move |runtime| ended.send(runtime.is_ok()).unwrap());
            assert!(ends.recv().unwrap());
            while !threads.are_all_idle() {
                thread::yield_now();
            }
        }
        assert_eq!(threads.0.lock().threads.len(), 1);
    }

    #[test]
    fn all_are_equally_nice_whoever_starts_them() {
        const COUNT: usize = 3;
        struct Chain(Threads, Barrier);
        fn go_on(chain: &Arc<Chain>, ended: mpsc::Sender<i32>, left: usize) {
            let next = chain.clone();
            chain.0.run(move |_| {
                ended.send(own_niceness()).unwrap();
                if left > 1 {
                    // This thread starts the next one.
                    go_on(&next, ended, left - 1);
                }
                // And none takes two of the tasks.
                next.1.wait();
            });
        }
        let (ended, ends) = mpsc::channel();
        go_on(&Arc::new(Chain(Threads::new(COUNT), Barrier::new(COUNT))), ended, COUNT);
        let nice = own_niceness() + if cfg!(target_os = "linux") { NICER } else { 0 };
        assert_eq!(ends.iter().collect::<Vec<_>>(), [nice; COUNT]);
    }
}
