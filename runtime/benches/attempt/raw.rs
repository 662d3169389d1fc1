//! The same attempt as somebody writes it who uses wasmtime directly and knows it well.
//!
//! It leaves out what makes a job a job (progress, cancels, artifacts, telling limits apart), and
//! nothing that a program must have that runs strangers' code with a limit on everything.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use wasmjob_runtime::{Limits, limits};
use wasmtime::{
    Engine, Store, StoreLimits, StoreLimitsBuilder,
    component::{Component, HasSelf, Linker, Resource, ResourceTable},
};
use wasmtime_wasi::{
    WasiCtx, WasiCtxView, WasiView,
    p2::{
        bindings::CommandPre,
        pipe::{MemoryInputPipe, MemoryOutputPipe},
    },
};

use super::Case;

#[allow(missing_docs, unused_qualifications, rust_2018_idioms, clippy::all)]
mod bindings {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "wasmjob:job/job",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "wasmjob:job/types.blob": bytes::Bytes,
            "wasmjob:job/artifacts.writer": crate::raw::Writer,
        },
        require_store_data_send: true,
    });
}

use bindings::{
    JobPre, Output,
    wasmjob::job::{
        artifacts, context, log,
        types::{self, Error},
    },
};

/// A guest that is compiled and linked.
pub(crate) struct Guest {
    engine: Engine,
    entry: Entry,
}

enum Entry {
    Command(CommandPre<State>),
    Job(JobPre<State>),
}

struct State {
    limits: StoreLimits,
    table: ResourceTable,
    wasi: WasiCtx,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl Guest {
    pub(crate) fn new(engine: &Engine, case: &Case) -> Self {
        let mut linker = Linker::new(engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).unwrap();
        types::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state).unwrap();
        context::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state).unwrap();
        log::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state).unwrap();
        artifacts::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state).unwrap();
        let component = Component::from_binary(engine, &case.component).unwrap();
        let linked = linker.instantiate_pre(&component).unwrap();
        let entry = match JobPre::new(linked.clone()) {
            Ok(job) => Entry::Job(job),
            Err(_) => Entry::Command(CommandPre::new(linked).unwrap()),
        };
        Guest { engine: engine.clone(), entry }
    }

    /// One attempt: what it put out and the fuel it used.
    pub(crate) async fn run(&self, case: &Case) -> (Bytes, u64) {
        let given = Limits::default();
        let stdout = MemoryOutputPipe::new(usize::try_from(given.output).unwrap());
        let stderr = MemoryOutputPipe::new(usize::try_from(given.log).unwrap());
        let mut store = Store::new(&self.engine, state(case, &given, &stdout, &stderr));
        store.limiter(|state| &mut state.limits);
        store.set_hostcall_fuel(16 << 20);
        store.set_max_component_handles(limits::COMPONENT_HANDLES_MAX);
        store.set_fuel(given.fuel).unwrap();
        store.fuel_async_yield_interval(Some(limits::YIELD_FUEL)).unwrap();
        let output = timeout(Duration::from_millis(given.wall_ms), self.call(&mut store, case)).await.unwrap();
        let fuel = given.fuel - store.get_fuel().unwrap();
        (output.unwrap_or_else(|| stdout.contents()), fuel)
    }

    async fn call(&self, store: &mut Store<State>, case: &Case) -> Option<Bytes> {
        match &self.entry {
            Entry::Command(command) => {
                let instance = command.instantiate_async(&mut *store).await.unwrap();
                instance.wasi_cli_run().call_run(&mut *store).await.unwrap().unwrap();
                None
            }
            Entry::Job(job) => {
                let instance = job.instantiate_async(&mut *store).await.unwrap();
                let input = store.data_mut().table.push(Bytes::from(case.input)).unwrap();
                match instance.call_run(&mut *store, input).await.unwrap().unwrap() {
                    Output::Bytes(bytes) => Some(bytes.into()),
                    Output::Artifact(blob) => store.data_mut().table.delete(blob).ok(),
                }
            }
        }
    }
}

fn state(case: &Case, given: &Limits, stdout: &MemoryOutputPipe, stderr: &MemoryOutputPipe) -> State {
    let limits = StoreLimitsBuilder::new()
        .memory_size(usize::try_from(given.memory).unwrap())
        .table_elements(limits::TABLE_ELEMENTS_MAX)
        .instances(limits::INSTANCES_MAX)
        .tables(limits::TABLES_MAX)
        .memories(limits::MEMORIES_MAX)
        .trap_on_grow_failure(true)
        .build();
    let mut table = ResourceTable::new();
    table.set_max_capacity(limits::HANDLES_MAX);
    let wasi = WasiCtx::builder()
        .stdin(MemoryInputPipe::new(case.input))
        .stdout(stdout.clone())
        .stderr(stderr.clone())
        .arg("job")
        .args(case.args)
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .max_random_size(16 << 20)
        .allow_blocking_current_thread(true)
        .build();
    State { limits, table, wasi }
}

/// Nothing can be written here, so there is none.
pub enum Writer {}

impl types::Host for State {}

impl types::HostBlob for State {
    async fn digest(&mut self, _: Resource<Bytes>) -> wasmtime::Result<String> {
        Ok(String::new())
    }

    async fn size(&mut self, blob: Resource<Bytes>) -> wasmtime::Result<u64> {
        Ok(self.table.get(&blob)?.len() as u64)
    }

    async fn read(&mut self, blob: Resource<Bytes>, offset: u64, len: u32) -> wasmtime::Result<Result<Vec<u8>, Error>> {
        let bytes = self.table.get(&blob)?;
        let from = usize::try_from(offset)?.min(bytes.len());
        let to = from.saturating_add(len as usize).min(bytes.len());
        Ok(Ok(bytes[from..to].to_vec()))
    }

    async fn drop(&mut self, blob: Resource<Bytes>) -> wasmtime::Result<()> {
        self.table.delete(blob)?;
        Ok(())
    }
}

impl context::Host for State {
    async fn job_id(&mut self) -> wasmtime::Result<String> {
        Ok("01arz3ndektsv4rrffq69g5fav".into())
    }

    async fn attempt(&mut self) -> wasmtime::Result<u32> {
        Ok(1)
    }

    async fn cancelled(&mut self) -> wasmtime::Result<bool> {
        Ok(false)
    }

    async fn progress(&mut self, _: u64, _: Option<u64>, _: String) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl log::Host for State {
    async fn log(&mut self, _: log::Level, _: String) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl artifacts::Host for State {
    async fn open(&mut self, digest: String) -> wasmtime::Result<Result<Resource<Bytes>, Error>> {
        Ok(Err(Error::NotFound(digest)))
    }

    async fn create(&mut self) -> wasmtime::Result<Result<Resource<Writer>, Error>> {
        Ok(Err(Error::Other("nothing can be written here".into())))
    }
}

impl artifacts::HostWriter for State {
    async fn write(&mut self, writer: Resource<Writer>, _: Vec<u8>) -> wasmtime::Result<Result<(), Error>> {
        match *self.table.get(&writer)? {}
    }

    async fn finish(&mut self, writer: Resource<Writer>) -> wasmtime::Result<Result<Resource<Bytes>, Error>> {
        match self.table.delete(writer)? {}
    }

    async fn drop(&mut self, writer: Resource<Writer>) -> wasmtime::Result<()> {
        match self.table.delete(writer)? {}
    }
}
