//! Compiling: where a stranger's bytes become machine code, and what that may cost.
//!
//! A component can be made to keep a compiler busy for hours or take all memory, and wasmtime does
//! not call that a vulnerability. So a node has it done by another process (`process`), which is this
//! program again (`worker`) with almost no rights and with caps on everything (`jail`). Only what
//! comes out is seen here: machine code, or why there is none.

#[cfg(unix)]
mod jail;
mod process;
mod worker;

use std::{
    convert::Infallible,
    ffi::OsString,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    thread,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use wasmtime::Engine;

pub use worker::compile_worker;

use crate::{
    blob::Blob,
    component,
    engine::Variant,
    limits::{COMPONENT_BYTES_MAX, Limit, NodeLimits},
    report::{Outcome, OutcomeKind},
};

/// Where components are compiled.
#[derive(Debug, Clone)]
pub enum Compiler {
    /// In this process, by whoever trusts the component: nothing but its size is limited, and a
    /// compile cannot be stopped.
    InProcess,
    /// In a process for each component.
    Process {
        /// The program that is started. It must be built from the same source as this one: the
        /// machine code it answers with is run.
        program: PathBuf,
        /// Its arguments. One more follows, with which it calls [`compile_worker`].
        args: Vec<OsString>,
        /// What one compile may take.
        caps: CompileCaps,
    },
}

/// What one compile may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileCaps {
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Seconds of processor time, all threads together.
    pub cpu_s: u64,
    /// Time from start to end: half as much again, for a machine that does other things as well.
    pub wall: Duration,
    /// Bytes of machine code: twice the largest component, which is about what compiling makes of it. The
    /// node holds them twice for a moment.
    pub code_bytes: u64,
}

impl Default for CompileCaps {
    fn default() -> Self {
        CompileCaps::of(&NodeLimits::default())
    }
}

impl CompileCaps {
    /// What an operator allows.
    #[must_use]
    pub fn of(limits: &NodeLimits) -> Self {
        CompileCaps {
            memory_bytes: limits.compile_memory,
            cpu_s: limits.compile_time_ms.div_ceil(1_000),
            wall: Duration::from_millis(limits.compile_time_ms.saturating_mul(3) / 2),
            code_bytes: limits.component.saturating_mul(2),
        }
    }
}

/// Machine code that this program made. Only what is certain to be that may become one: it is run.
#[derive(Clone)]
pub(crate) struct Code(Bytes);

impl Code {
    /// The caller vouches for it.
    pub(crate) fn trusted(bytes: impl Into<Bytes>) -> Self {
        Code(bytes.into())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Why there is no machine code.
#[derive(Debug, Clone)]
pub(crate) enum NotCompiled {
    /// It is the component's fault: another try would end the same way.
    Refused(Box<Outcome>),
    /// It is not.
    Failed(Box<Outcome>),
}

impl NotCompiled {
    fn invalid(message: impl Into<String>) -> Self {
        NotCompiled::Refused(Box::new(Outcome::invalid(message)))
    }

    fn limited(message: impl Into<String>) -> Self {
        NotCompiled::Refused(Box::new(limited(message)))
    }

    fn failed(message: impl Into<String>) -> Self {
        NotCompiled::Failed(Box::new(Outcome::ended(OutcomeKind::Error, message, true)))
    }
}

/// The outcome of a component that takes more to compile than there is: here and everywhere.
fn limited(message: impl Into<String>) -> Outcome {
    Outcome { retryable: false, ..Outcome::limited(Limit::Compile, message) }
}

/// A compile that runs. Ends it, if it can be ended, when the last clone is dropped.
pub(crate) type Compiling = Shared<BoxFuture<'static, Result<Code, NotCompiled>>>;

impl Compiler {
    /// Another process of this program, started with `args`.
    pub fn this_program<A: Into<OsString>>(args: impl IntoIterator<Item = A>, caps: CompileCaps) -> io::Result<Self> {
        // The link, and not what it points to: it stays right when the file is replaced while we run.
        let program = match cfg!(target_os = "linux") {
            true => PathBuf::from("/proc/self/exe"),
            false => std::env::current_exe()?,
        };
        let args = args.into_iter().map(Into::into).collect();
        Ok(Compiler::Process { program, args, caps })
    }

    /// Starts to compile `component` for engines of `variant`, like `engine`. `turn` is dropped when
    /// that has ended, also if nobody waits for it any more.
    pub(crate) fn start(
        &self,
        engine: &Engine,
        variant: Variant,
        component: Blob,
        turn: OwnedSemaphorePermit,
    ) -> Compiling {
        let (compiler, engine) = (self.clone(), engine.clone());
        let (send, ended) = oneshot::channel();
        let (wanted, unwanted) = oneshot::channel();
        // A thread of its own, because the system ends the process with the thread that started it.
        let started = thread::Builder::new().name("compile".into()).spawn(move || {
            let compile = || compiler.compile(&engine, variant, &component, unwanted);
            let compiled = catch_unwind(AssertUnwindSafe(compile));
            drop(turn);
            let _ = send.send(compiled.unwrap_or_else(|_| Err(NotCompiled::failed("the compiler's thread panicked"))));
        });
        let result = async move {
            let _wanted = wanted;
            started.map_err(|error| NotCompiled::failed(format!("no thread to compile on: {error}")))?;
            ended.await.unwrap_or_else(|_| Err(NotCompiled::failed("the compiler's thread is gone")))
        };
        result.boxed().shared()
    }

    fn compile(
        &self,
        engine: &Engine,
        variant: Variant,
        component: &Blob,
        unwanted: oneshot::Receiver<Infallible>,
    ) -> Result<Code, NotCompiled> {
        let bytes = component.to_bytes(COMPONENT_BYTES_MAX).map_err(|error| NotCompiled::failed(error.to_string()))?;
        match self {
            Compiler::InProcess => compile_here(engine, &bytes).map(Code::trusted).map_err(NotCompiled::Refused),
            Compiler::Process { program, args, caps } => {
                process::Job { program, args, caps, variant }.run(&bytes, unwanted)
            }
        }
    }
}

/// Compiles in this process.
fn compile_here(engine: &Engine, bytes: &[u8]) -> Result<Vec<u8>, Box<Outcome>> {
    let compiled = catch_unwind(AssertUnwindSafe(|| component::compile(engine, bytes)));
    compiled.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
        Err(Box::new(gave_up(text.unwrap_or("it panicked"))))
    })
}

/// The outcome of a component that the compiler has not survived, which left these words.
fn gave_up(said: &str) -> Outcome {
    if is_out_of_memory(said) {
        return limited("needs more memory to compile than it is given");
    }
    Outcome::invalid(format!("the compiler gave up on this component: {said}"))
}

/// Whether these are words about memory. The allocator ends the process with nothing else to tell it
/// by, and a thread or a mapping that cannot be had is an error number.
fn is_out_of_memory(said: &str) -> bool {
    ["memory allocation of", "out of memory", "(os error 12)", "(os error 11)"].iter().any(|word| said.contains(word))
}
