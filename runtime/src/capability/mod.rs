//! The interfaces of `wit/job.wit`, one file each: what a guest calls and what the host does then.

pub mod artifacts;
mod context;
pub(crate) mod files;
mod jobs;
mod log;
mod names;
mod poll;
mod secrets;

use wasmtime::component::{HasData, HasSelf, Linker};
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock;

use crate::{clock::Clocks, grants::Grants, stdio::floor_char_boundary, store::State};

#[allow(missing_docs, unused_qualifications, rust_2018_idioms, clippy::all)]
mod bindings {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "wasmjob:job/job-with-grants",
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
    JobWithGrantsPre as JobPre,
    wasmjob::job::types::{Failure, Output},
};

/// Interfaces every job may import, besides WASI 0.2.
pub(crate) const ALWAYS: [&str; 4] =
    ["wasmjob:job/types", "wasmjob:job/context", "wasmjob:job/log", "wasmjob:job/artifacts"];

/// Interfaces that need a grant: whether it is there, and the flag that gives it.
type Need = (&'static str, fn(&Grants) -> bool, &'static str);
pub(crate) const GRANTED: [Need; 3] = [
    ("wasmjob:job/names", |grants| grants.names.is_some(), "--grant artifacts=PREFIX:ro"),
    ("wasmjob:job/jobs", |grants| grants.children.is_some(), "--grant jobs=N"),
    ("wasmjob:job/secrets", |grants| !grants.secrets.is_empty(), "--secret NAME"),
];

/// Makes WASI and the interfaces of `wasmjob:job` available to components.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    // What we do otherwise than WASI's own host.
    linker.allow_shadowing(true);
    monotonic_clock::add_to_linker::<_, OwnClocks>(linker, |state| Clocks::of(state))?;
    files::add_to_linker(linker)?;
    poll::add_to_linker(linker)?;
    linker.allow_shadowing(false);
    add_own_to_linker(linker)
}

/// Says which type `Clocks` is with which lifetime.
struct OwnClocks;

impl HasData for OwnClocks {
    type Data<'a> = Clocks<'a>;
}

fn add_own_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    use bindings::wasmjob::job;
    job::types::add_to_linker::<_, HasSelf<State>>(linker, State::called)?;
    job::context::add_to_linker::<_, HasSelf<State>>(linker, State::called)?;
    job::log::add_to_linker::<_, HasSelf<State>>(linker, State::called)?;
    job::artifacts::add_to_linker::<_, HasSelf<State>>(linker, State::called)?;
    job::names::add_to_linker::<_, HasSelf<State>>(linker, State::called)?;
    job::jobs::add_to_linker::<_, HasSelf<State>>(linker, State::called)?;
    job::secrets::add_to_linker::<_, HasSelf<State>>(linker, State::called)
}

/// What a guest wrote, as a message repeats it: cut, and on one line.
fn shown(text: &str) -> String {
    let cut = &text[..floor_char_boundary(text, SHOWN_BYTES_MAX)];
    cut.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Bytes of a guest's own words in a message to it.
const SHOWN_BYTES_MAX: usize = 80;
