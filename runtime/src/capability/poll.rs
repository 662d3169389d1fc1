//! `wasi:io/poll`: wasmtime's own, with fuel for each thing that is waited for. A guest can name the
//! same timer a million times in one call.

use wasmtime::component::{HasData, Linker, Resource};
use wasmtime_wasi::p2::DynPollable;
use wasmtime_wasi_io::bindings::wasi::io::poll::{self, Host, HostPollable};

use crate::{limits, store::State};

pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    poll::add_to_linker::<_, OwnPolls>(linker, |state| Polls(state.called()))
}

/// Says which type `Polls` is with which lifetime.
struct OwnPolls;

impl HasData for OwnPolls {
    type Data<'a> = Polls<'a>;
}

struct Polls<'a>(&'a mut State);

impl Host for Polls<'_> {
    async fn poll(&mut self, pollables: Vec<Resource<DynPollable>>) -> wasmtime::Result<Vec<u32>> {
        self.0.charge(limits::POLL_FUEL.saturating_mul(pollables.len() as u64));
        Host::poll(&mut self.0.table, pollables).await
    }
}

impl HostPollable for Polls<'_> {
    async fn block(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        HostPollable::block(&mut self.0.table, pollable).await
    }

    async fn ready(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<bool> {
        HostPollable::ready(&mut self.0.table, pollable).await
    }

    fn drop(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        HostPollable::drop(&mut self.0.table, pollable)
    }
}
