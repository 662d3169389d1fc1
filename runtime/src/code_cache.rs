//! What is known of components: those that are ready to run, in memory by bytes; those that are being
//! compiled; those that could not be. On disk, across restarts: `folder`.

mod folder;

use std::{
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use lru::LruCache;
use tokio::sync::OnceCell;

pub(crate) use folder::CodeFolder;

use crate::{
    blob::Digest,
    compiler::Compiling,
    component::Prepared,
    engine::Variant,
    limits::{COMPILE_REFUSALS_MAX, COMPILE_REFUSED_FOR},
    report::Outcome,
};

/// Components that are remembered; jobs can name any number that nobody has.
const COMPONENTS_MAX: NonZeroUsize = NonZeroUsize::new(4_096).expect("it is not zero");
const REFUSALS_MAX: NonZeroUsize = NonZeroUsize::new(COMPILE_REFUSALS_MAX).expect("it is not zero");

/// A component, and how it is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) digest: Digest,
    pub(crate) variant: Variant,
}

/// What the cache did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Found in memory.
    pub hits: u64,
    /// Loaded from disk.
    pub disk_hits: u64,
    /// Compiled, or tried to.
    pub compiled: u64,
    /// Bytes in memory now.
    pub bytes: usize,
}

pub(crate) struct CodeCache {
    entries: Mutex<LruCache<Key, Arc<Entry>>>,
    refusals: Mutex<LruCache<Key, (Instant, Box<Outcome>)>>,
    bytes_max: usize,
    pub(crate) hits: AtomicU64,
    pub(crate) disk_hits: AtomicU64,
    pub(crate) compiled: AtomicU64,
}

impl CodeCache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        CodeCache {
            entries: Mutex::new(LruCache::new(COMPONENTS_MAX)),
            refusals: Mutex::new(LruCache::new(REFUSALS_MAX)),
            bytes_max,
            hits: AtomicU64::new(0),
            disk_hits: AtomicU64::new(0),
            compiled: AtomicU64::new(0),
        }
    }

    pub(crate) fn entry(&self, key: Key) -> Arc<Entry> {
        locked(&self.entries).get_or_insert(key, Arc::default).clone()
    }

    /// Forgets the components that were not used for longest until the rest fits.
    pub(crate) fn shrink(&self) {
        let mut entries = locked(&self.entries);
        let mut total: usize = entries.iter().map(|(_, entry)| entry.bytes()).sum();
        while total > self.bytes_max && entries.len() > 1 {
            let Some((_, entry)) = entries.pop_lru() else { break };
            total -= entry.bytes();
        }
    }

    /// Why the component could not be compiled, if that is not long ago.
    pub(crate) fn refusal(&self, key: Key) -> Option<Box<Outcome>> {
        let mut refusals = locked(&self.refusals);
        let (since, outcome) = refusals.get(&key)?;
        if since.elapsed() < COMPILE_REFUSED_FOR {
            return Some(outcome.clone());
        }
        refusals.pop(&key);
        None
    }

    /// Remembers that the component could not be compiled, and would not be if it were tried again.
    pub(crate) fn refuse(&self, key: Key, outcome: Box<Outcome>) {
        locked(&self.refusals).put(key, (Instant::now(), outcome));
    }

    pub(crate) fn counts(&self) -> CacheCounts {
        CacheCounts {
            bytes: locked(&self.entries).iter().map(|(_, entry)| entry.bytes()).sum(),
            hits: self.hits.load(Ordering::Relaxed),
            disk_hits: self.disk_hits.load(Ordering::Relaxed),
            compiled: self.compiled.load(Ordering::Relaxed),
        }
    }
}

/// A component that is prepared at most once, however many ask for it at the same time.
#[derive(Default)]
pub(crate) struct Entry {
    pub(crate) prepared: OnceCell<Arc<Prepared>>,
    wanted: Mutex<Wanted>,
}

/// Who waits for the component, and the compile they wait for.
#[derive(Default)]
struct Wanted {
    waiters: usize,
    running: Option<Compiling>,
}

impl Entry {
    fn bytes(&self) -> usize {
        self.prepared.get().map_or(0, |prepared| prepared.code_bytes())
    }

    /// One more who waits for the component.
    pub(crate) fn wait(&self) -> Waiter<'_> {
        locked(&self.wanted).waiters += 1;
        Waiter(self)
    }
}

/// Somebody who waits for a component. A compile goes on as long as there is one, whoever started it;
/// when the last one is dropped, it is ended.
pub(crate) struct Waiter<'a>(&'a Entry);

impl Waiter<'_> {
    /// The compile that runs.
    pub(crate) fn running(&self) -> Option<Compiling> {
        locked(&self.0.wanted).running.clone()
    }

    /// A compile runs from here on.
    pub(crate) fn runs(&self, compiling: Compiling) -> Compiling {
        locked(&self.0.wanted).running.insert(compiling).clone()
    }

    /// The compile has ended, and what came of it is known.
    pub(crate) fn ended(&self) {
        locked(&self.0.wanted).running = None;
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut wanted = locked(&self.0.wanted);
        wanted.waiters -= 1;
        if wanted.waiters == 0 {
            wanted.running = None;
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
