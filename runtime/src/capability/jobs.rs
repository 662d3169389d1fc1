//! `wasmjob:job/jobs`: children of a job.

use std::time::Instant;

use super::bindings::wasmjob::job::{jobs::Host, types::Error};
use crate::store::State;

/// What a child costs the host to submit: a message that is stored.
const CHILD_FUEL: u64 = 100_000;

impl Host for State {
    async fn submit(&mut self, spec: String) -> wasmtime::Result<Result<String, Error>> {
        self.charge(CHILD_FUEL);
        self.charge_bytes(spec.len());
        let Some(granted) = self.grants.children.clone() else {
            return Ok(Err(Error::Denied("this job may submit no jobs: --grant jobs=N".into())));
        };
        if self.children >= granted.max {
            let max = granted.max;
            return Ok(Err(Error::Limit(format!("this job may submit {max} jobs and has: --grant jobs=N"))));
        }
        let started = Instant::now();
        let submitted = granted.children.submit(self.children, &spec).await;
        self.host_time += started.elapsed();
        if submitted.is_ok() {
            self.children += 1;
        }
        Ok(submitted.map_err(Error::from))
    }
}
