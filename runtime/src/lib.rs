//! The sandbox: turns a component, an input and limits into a report.
//!
//! It knows nothing of queues, networks, environment variables or the date. A host gives it bytes
//! and gets back what they put out, how they ended and what they used:
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//! use wasmjob_runtime::{Attempt, Blob, Limits, NoArtifacts, NoLog, Sandbox, SandboxConfig};
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let dir = std::env::temp_dir();
//! let sandbox = Sandbox::new(SandboxConfig { slots: 1, code_dir: None, code_bytes_max: 1 << 26, spill_dir: dir })?;
//! let module = wat::parse_str(r#"(module (func (export "_start")) (memory (export "memory") 1))"#).unwrap();
//! let bytes = Blob::from_bytes(module.into());
//! let digest = bytes.digest();
//! let (component, _compiled_in) = sandbox.prepare(digest, async { Ok(bytes) }).await.unwrap();
//! let attempt = Attempt {
//!     component,
//!     job: "an-example".into(),
//!     number: 1,
//!     input: Blob::from_bytes("some input".into()),
//!     args: vec![],
//!     env: vec![],
//!     soft: Duration::from_secs(60),
//!     limits: Limits { fuel: 1_000_000, ..Limits::default() },
//!     artifacts: Arc::new(NoArtifacts),
//!     log: Arc::new(NoLog),
//!     signals: Arc::default(),
//! };
//! let report = sandbox.start(attempt, ()).report().await;
//! assert!(report.outcome.is_ok());
//! # Ok::<(), wasmjob_runtime::SandboxError>(()) }).unwrap();
//! ```
//!
//! Where things are: `sandbox` is the life of an attempt; `component` decides what may run,
//! `adapt` lets plain modules in; `limits` lists every ceiling, `store` and `stdio` enforce them and
//! `ending` tells them apart afterwards; `capability` is what a guest can call; `blob` is
//! content-addressed bytes.

mod adapt;
mod artifacts;
pub mod blob;
mod capability;
mod code_cache;
mod component;
mod ending;
mod engine;
pub mod limits;
mod log;
mod report;
mod sandbox;
mod signals;
mod stdio;
mod store;
mod threads;

pub use artifacts::{AccessError, Artifacts, NoArtifacts};
pub use blob::{Blob, BlobError, BlobWriter, Digest, DigestError, GROUP_BYTES, READ_BYTES_MAX, Tree, TreeError};
pub use code_cache::CacheCounts;
pub use component::Prepared;
#[doc(hidden)]
pub use component::admit;
pub use engine::WASMTIME_VERSION;
pub use limits::{Limit, Limits};
pub use log::{LogSink, LogStream, NoLog};
pub use report::{AttemptReport, Outcome, OutcomeKind, Progress, Usage, millis};
pub use sandbox::{Attempt, Running, Sandbox, SandboxConfig, SandboxError};
pub use signals::Signals;
