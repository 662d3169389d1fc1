//! From a digest to a component that is ready to run: out of memory, off the disk, or compiled.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::task::spawn_blocking;

use crate::{
    blob::{Blob, Digest},
    code_cache::{Key, Waiter},
    compiler::{Code, NotCompiled},
    component::{self, Prepared},
    engine::Variant,
    machine::Machine,
    report::{Outcome, OutcomeKind},
    sandbox::Sandbox,
};

impl Sandbox {
    /// The component `digest` ready to run, and how long it took to compile: nothing if it was
    /// compiled before. `bytes` is asked for only if it was not; however many ask at the same time,
    /// it is compiled once. The compile ends when nobody waits for it any more.
    ///
    /// Errors: the outcome that a job of this component has.
    pub async fn prepare<F>(
        &self,
        digest: Digest,
        variant: Variant,
        bytes: F,
    ) -> Result<(Arc<Prepared>, Duration), Box<Outcome>>
    where
        F: Future<Output = Result<Blob, Box<Outcome>>> + Send,
    {
        let key = Key { digest, variant };
        let entry = self.cache.entry(key);
        if let Some(prepared) = entry.prepared.get() {
            self.cache.hits.fetch_add(1, Ordering::Relaxed);
            return Ok((prepared.clone(), Duration::ZERO));
        }
        let waiter = entry.wait();
        let mut took = Duration::ZERO;
        let prepared = entry.prepared.get_or_try_init(|| self.find_or_compile(key, &waiter, bytes, &mut took));
        let prepared = prepared.await?.clone();
        self.cache.shrink();
        Ok((prepared, took))
    }

    /// Loads or compiles a component; `took` becomes the time that compiling took.
    async fn find_or_compile<F>(
        &self,
        key: Key,
        waiter: &Waiter<'_>,
        bytes: F,
        took: &mut Duration,
    ) -> Result<Arc<Prepared>, Box<Outcome>>
    where
        F: Future<Output = Result<Blob, Box<Outcome>>> + Send,
    {
        if let Some(outcome) = self.cache.refusal(key) {
            return Err(outcome);
        }
        let machine = self.machine(key.variant).await?;
        if let Some(found) = blocking(&machine, move |machine| machine.find(key.digest)).await? {
            self.cache.disk_hits.fetch_add(1, Ordering::Relaxed);
            return found.map(Arc::new);
        }
        let compiled = self.compile(key, &machine, waiter, bytes, took).await?;
        let prepared = match compiled {
            Ok(code) => {
                let taken = blocking(&machine, move |machine| machine.take(key.digest, &code)).await;
                taken.and_then(|taken| taken).map_err(NotCompiled::Refused)
            }
            Err(why) => Err(why),
        };
        waiter.ended();
        match prepared {
            Ok(prepared) => Ok(Arc::new(prepared)),
            Err(NotCompiled::Failed(outcome)) => Err(outcome),
            Err(NotCompiled::Refused(outcome)) => {
                self.cache.refuse(key, outcome.clone());
                Err(outcome)
            }
        }
    }

    /// Waits for the compile that runs, or starts one. Errors: the bytes cannot be had.
    async fn compile<F>(
        &self,
        key: Key,
        machine: &Machine,
        waiter: &Waiter<'_>,
        bytes: F,
        took: &mut Duration,
    ) -> Result<Result<Code, NotCompiled>, Box<Outcome>>
    where
        F: Future<Output = Result<Blob, Box<Outcome>>> + Send,
    {
        let compiling = match waiter.running() {
            // Whoever started it was cancelled.
            Some(running) => running,
            None => {
                let component = bytes.await?;
                if component.size() > self.component_bytes_max {
                    return Err(Box::new(component::too_large(component.size(), self.component_bytes_max)));
                }
                self.check_signature(key.digest, &component).await?;
                let turn = self.compiling.clone().acquire_owned().await;
                let turn = turn.map_err(|_| Box::new(failed("the sandbox is closed")))?;
                self.cache.compiled.fetch_add(1, Ordering::Relaxed);
                waiter.runs(self.compiler.start(&machine.engine, key.variant, component, turn))
            }
        };
        let started = Instant::now();
        let compiled = compiling.await;
        *took = started.elapsed();
        Ok(compiled)
    }
}

/// Does what blocks on the disk, or computes for milliseconds, on a thread for that.
async fn blocking<T, F>(machine: &Arc<Machine>, work: F) -> Result<T, Box<Outcome>>
where
    T: Send + 'static,
    F: FnOnce(&Machine) -> T + Send + 'static,
{
    let machine = machine.clone();
    let done = spawn_blocking(move || work(&machine)).await;
    done.map_err(|error| Box::new(Outcome::invalid(format!("the component could not be loaded: {error}"))))
}

fn failed(message: &str) -> Outcome {
    Outcome::ended(OutcomeKind::Error, message, true)
}
