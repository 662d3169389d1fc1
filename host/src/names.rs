//! Names of components: `push --name` writes them, everybody resolves them.

use wasmjob_runtime::Digest;

use crate::queue::{Broker, QueueError, names};

/// Whether `name` can be given to a component: what a NATS key can be, and no digest or path.
pub fn is_name(name: &str) -> bool {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    // `submit` takes what ends like a file for a file.
    let ends = name.starts_with('.') || name.ends_with('.') || name.contains("..") || name.ends_with(".wasm");
    (1..=128).contains(&name.len()) && name.bytes().all(valid) && !ends
}

/// The digest that `name` stands for now.
pub async fn resolve(broker: &Broker, name: &str) -> Result<Option<Digest>, QueueError> {
    if !is_name(name) {
        return Ok(None);
    }
    let unavailable = |reason: String| QueueError::Unavailable { what: format!("the name {name}"), reason };
    let bucket = broker.jetstream.get_key_value(names::NAMES).await.map_err(|error| unavailable(error.to_string()))?;
    let value = bucket.get(name).await.map_err(|error| unavailable(error.to_string()))?;
    Ok(value.and_then(|value| std::str::from_utf8(&value).ok()?.parse().ok()))
}

/// Lets `name` stand for `digest` from now on.
pub async fn set(broker: &Broker, name: &str, digest: Digest) -> Result<(), QueueError> {
    let unavailable = |reason: String| QueueError::Unavailable { what: format!("the name {name}"), reason };
    let bucket = broker.jetstream.get_key_value(names::NAMES).await.map_err(|error| unavailable(error.to_string()))?;
    let stored = bucket.put(name, digest.to_string().into()).await;
    stored.map(drop).map_err(|error| unavailable(error.to_string()))
}
