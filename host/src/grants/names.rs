//! Names of artifacts for jobs: the cluster's, or none.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;
use wasmjob_runtime::{AccessError, Digest, grants::Names};

use crate::{
    names,
    queue::{Broker, QueueError},
};

/// The names of a cluster. Questions run on the I/O runtime, not on the guest's thread.
pub struct ClusterNames {
    broker: Arc<Broker>,
    io: Handle,
}

impl ClusterNames {
    /// Asks `broker`.
    pub fn new(broker: Arc<Broker>) -> Self {
        ClusterNames { broker, io: Handle::current() }
    }
}

#[async_trait]
impl Names for ClusterNames {
    async fn get(&self, name: &str) -> Result<Digest, AccessError> {
        let (broker, wanted) = (self.broker.clone(), name.to_owned());
        let asked = AbortOnDropHandle::new(self.io.spawn(async move { names::resolve(&broker, &wanted).await })).await;
        let found =
            asked.map_err(|error| AccessError::Unavailable(error.to_string()))?.map_err(|error| unavailable(&error))?;
        found.ok_or_else(|| AccessError::NotFound(format!("nothing has the name `{name}`")))
    }

    async fn set(&self, name: &str, digest: Digest) -> Result<(), AccessError> {
        if !names::is_name(name) {
            return Err(AccessError::Refused(format!(
                "`{name}` can be no name: 1 to 128 of A-Z, a-z, 0-9, -, _ and ."
            )));
        }
        let (broker, name) = (self.broker.clone(), name.to_owned());
        let set = AbortOnDropHandle::new(self.io.spawn(async move { names::set(&broker, &name, digest).await })).await;
        set.map_err(|error| AccessError::Unavailable(error.to_string()))?.map_err(|error| unavailable(&error))
    }
}

fn unavailable(error: &QueueError) -> AccessError {
    AccessError::Unavailable(error.to_string())
}

/// Where there is no cluster.
pub struct NoNames;

#[async_trait]
impl Names for NoNames {
    async fn get(&self, name: &str) -> Result<Digest, AccessError> {
        Err(AccessError::NotFound(format!("`{name}` is a name of a cluster, and `wasmjob run` has none")))
    }

    async fn set(&self, name: &str, _: Digest) -> Result<(), AccessError> {
        Err(AccessError::Refused(format!("`{name}` would be a name of a cluster, and `wasmjob run` has none")))
    }
}
