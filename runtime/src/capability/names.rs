//! `wasmjob:job/names`: artifacts by name.

use std::{sync::Arc, time::Instant};

use wasmtime::component::Resource;

use super::{
    artifacts::too_many_blobs,
    bindings::wasmjob::job::{names::Host, types::Error},
    shown,
};
use crate::{
    blob::{Blob, Digest},
    grants::Names,
    limits,
    store::State,
};

/// What a name costs the host to look up: a question to the cluster, mostly waiting.
const NAME_FUEL: u64 = 20_000;

impl State {
    /// Who knows `name`, if it may be read, or set if `write`.
    fn names_for(&self, name: &str, write: bool) -> Result<Arc<dyn Names>, Error> {
        let granted = self.grants.names.as_ref().filter(|granted| {
            granted.prefixes.iter().any(|(prefix, writable)| name.starts_with(prefix.as_str()) && (*writable || !write))
        });
        let mode = if write { "rw" } else { "ro" };
        let name = shown(name);
        granted.map(|granted| granted.names.clone()).ok_or_else(|| {
            Error::Denied(format!("the name `{name}` was not granted to this job: --grant artifacts={name}:{mode}"))
        })
    }

    async fn open_named(&mut self, name: &str) -> Result<Blob, Error> {
        let names = self.names_for(name, false)?;
        if self.blobs >= limits::BLOBS_MAX {
            return Err(too_many_blobs());
        }
        let digest: Digest = names.get(name).await?;
        Ok(self.artifacts.clone().open(&digest).await?)
    }
}

impl Host for State {
    async fn get(&mut self, name: String) -> wasmtime::Result<Result<Resource<Blob>, Error>> {
        self.charge(NAME_FUEL);
        let started = Instant::now();
        let opened = self.open_named(&name).await;
        self.host_time += started.elapsed();
        Ok(match opened {
            Ok(blob) => Ok(self.hand_out(blob)?),
            Err(error) => Err(error),
        })
    }

    async fn set(&mut self, name: String, blob: Resource<Blob>) -> wasmtime::Result<Result<(), Error>> {
        self.charge(NAME_FUEL);
        let digest = self.table.get(&blob)?.digest();
        let names = match self.names_for(&name, true) {
            Ok(names) => names,
            Err(error) => return Ok(Err(error)),
        };
        let started = Instant::now();
        let set = names.set(&name, digest).await;
        self.host_time += started.elapsed();
        Ok(set.map_err(Error::from))
    }
}
