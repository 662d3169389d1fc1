//! The sandbox: turns a component, an input and limits into a report.
//!
//! It knows nothing of queues, networks, environment variables or the date. A host gives it bytes
//! and gets back what they put out, how they ended and what they used:
//!
//! ```
//! use wasmjob_runtime::{Attempt, Blob, Limits, Sandbox, SandboxConfig, Variant};
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let sandbox = Sandbox::new(SandboxConfig::new(1, std::env::temp_dir()))?;
//! let module = wat::parse_str(r#"(module (func (export "_start")) (memory (export "memory") 1))"#).unwrap();
//! let bytes = Blob::from_bytes(module.into());
//! let digest = bytes.digest();
//! let prepared = sandbox.prepare(digest, Variant::Fast, async { Ok(bytes) }).await;
//! let (component, _compiled_in) = prepared.unwrap();
//! let attempt = Attempt {
//!     input: Blob::from_bytes("some input".into()),
//!     limits: Limits { fuel: 1_000_000, ..Limits::default() },
//!     ..Attempt::new(component)
//! };
//! let report = sandbox.start(attempt, ()).report().await;
//! assert!(report.outcome.is_ok());
//! # Ok::<(), wasmjob_runtime::SandboxError>(()) }).unwrap();
//! ```
//!
//! Where things are: `sandbox` is the life of an attempt, `prepare` what comes before it; `component`
//! decides what may run, `imports` what each import needs, `adapt` lets plain modules in, `compiler` has
//! that done in another process; `signature` says who stands behind a component, `inspect` tells what
//! is in it; `limits` lists every ceiling, `meter`, `store` and `stdio` enforce them and `ending` tells
//! them apart afterwards; `grants` is what an attempt may reach and `capability` what a guest can call;
//! `clock` and `random` are what differs for deterministic jobs; `blob` is
//! content-addressed bytes.

mod adapt;
mod artifacts;
pub mod blob;
mod capability;
mod clock;
mod code_cache;
mod compiler;
mod component;
mod ending;
mod engine;
pub mod grants;
mod imports;
mod inspect;
pub mod limits;
mod log;
mod machine;
mod meter;
mod prepare;
mod random;
mod report;
mod sandbox;
mod signals;
mod signature;
mod stdio;
mod store;
mod threads;

pub use artifacts::{AccessError, Artifacts, NoArtifacts};
pub use blob::{Blob, BlobError, BlobWriter, Digest, DigestError, GROUP_BYTES, READ_BYTES_MAX, Tree, TreeError};
pub use code_cache::CacheCounts;
pub use compiler::{CompileCaps, Compiler, compile_worker};
pub use component::Prepared;
#[doc(hidden)]
pub use component::admit;
pub use engine::{Variant, WASMTIME_VERSION};
pub use grants::Grants;
pub use imports::{Need, grant_for};
pub use inspect::{CoreFacts, Export, Import, Inspection, JobKind, Memory, Producer, SignedBy, inspect};
pub use limits::{Limit, Limits, NodeLimits};
pub use log::{LogSink, LogStream, NoLog};
pub use report::{AttemptReport, Outcome, OutcomeKind, Progress, Usage, millis};
pub use sandbox::{Attempt, Running, Sandbox, SandboxConfig, SandboxError};
pub use signals::Signals;
pub use signature::{
    KeyError, PrivateKey, PublicKey, SignatureError, TrustedKeys, Untrusted, UntrustedReason, sign, signatures,
};
