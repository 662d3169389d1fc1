//! The interfaces of `wit/job.wit`, one file each: what a guest calls and what the host does then.

pub mod artifacts;
mod context;
pub(crate) mod files;
mod http;
mod jobs;
mod log;
mod names;
pub(crate) mod net;
mod poll;
mod secrets;

use wasmtime::component::{HasData, HasSelf, Linker};
use wasmtime_wasi::p2::bindings::{
    clocks::monotonic_clock,
    sockets::{ip_name_lookup, tcp, tcp_create_socket},
};

use crate::{clock::Clocks, grants::Grants, stdio::floor_char_boundary, store::State};

use net::Sockets;

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

pub(crate) use http::Http;

pub(crate) use bindings::{
    JobWithGrantsPre as JobPre,
    wasmjob::job::types::{Failure, Output},
};

/// Interfaces every job may import, besides WASI 0.2.
pub(crate) const ALWAYS: [&str; 4] =
    ["wasmjob:job/types", "wasmjob:job/context", "wasmjob:job/log", "wasmjob:job/artifacts"];

/// Whether an attempt was granted an import that needs a grant.
pub(crate) fn is_granted(import: &str, grants: &Grants) -> bool {
    let interface = import.split_once('@').map_or(import, |(interface, _)| interface);
    match interface {
        "wasmjob:job/names" => grants.names.is_some(),
        "wasmjob:job/jobs" => grants.children.is_some(),
        "wasmjob:job/secrets" => !grants.secrets.is_empty(),
        _ if interface.starts_with("wasi:http/") => !grants.http.is_empty(),
        _ => false,
    }
}

/// Makes WASI and the interfaces of `wasmjob:job` available to components.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    // What we do otherwise than WASI's own host.
    linker.allow_shadowing(true);
    monotonic_clock::add_to_linker::<_, OwnClocks>(linker, |state| Clocks::of(state))?;
    tcp_create_socket::add_to_linker::<_, OwnSockets>(linker, |state| Sockets::of(state))?;
    tcp::add_to_linker::<_, OwnSockets>(linker, |state| Sockets::of(state))?;
    ip_name_lookup::add_to_linker::<_, OwnSockets>(linker, |state| Sockets::of(state))?;
    files::add_to_linker(linker)?;
    poll::add_to_linker(linker)?;
    linker.allow_shadowing(false);
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    add_own_to_linker(linker)
}

/// Says which type `Clocks` is with which lifetime.
struct OwnClocks;

impl HasData for OwnClocks {
    type Data<'a> = Clocks<'a>;
}

/// Says which type `Sockets` is with which lifetime.
struct OwnSockets;

impl HasData for OwnSockets {
    type Data<'a> = Sockets<'a>;
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
