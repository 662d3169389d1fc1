//! `wasmjob:job/secrets`: values that the operator keeps.

use super::{
    bindings::wasmjob::job::{secrets::Host, types::Error},
    shown,
};
use crate::store::State;

impl Host for State {
    async fn get(&mut self, name: String) -> wasmtime::Result<Result<Vec<u8>, Error>> {
        let Some(secret) = self.grants.secrets.get(&name) else {
            let name = shown(&name);
            return Ok(Err(Error::Denied(format!("the job does not name the secret `{name}`: --secret {name}"))));
        };
        let value = secret.reveal();
        self.charge_bytes(value.len());
        Ok(Ok(value))
    }
}
