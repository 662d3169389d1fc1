//! The interfaces of `wit/job.wit`, one file each: what a guest calls and what the host does then.

pub mod artifacts;
mod context;
mod log;

use wasmtime::component::{HasSelf, Linker};

use crate::store::State;

#[allow(missing_docs, unused_qualifications, rust_2018_idioms, clippy::all)]
mod bindings {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "wasmjob:job/job",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "wasmjob:job/types.blob": crate::blob::Blob,
            "wasmjob:job/artifacts.writer": crate::capability::artifacts::ArtifactWriter,
        },
        require_store_data_send: true,
    });
}

pub(crate) use bindings::{
    JobPre,
    wasmjob::job::types::{Failure, Output},
};

/// Interfaces every job may import, besides WASI 0.2.
pub(crate) const ALWAYS: [&str; 4] =
    ["wasmjob:job/types", "wasmjob:job/context", "wasmjob:job/log", "wasmjob:job/artifacts"];

/// Makes the interfaces of `wasmjob:job` available to components.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    use bindings::wasmjob::job;
    job::types::add_to_linker::<_, HasSelf<State>>(linker, |state| state)?;
    job::context::add_to_linker::<_, HasSelf<State>>(linker, |state| state)?;
    job::log::add_to_linker::<_, HasSelf<State>>(linker, |state| state)?;
    job::artifacts::add_to_linker::<_, HasSelf<State>>(linker, |state| state)
}
