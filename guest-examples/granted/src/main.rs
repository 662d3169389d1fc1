//! What a job can do that was granted it: read a secret, use names of artifacts, submit children.

use serde::Deserialize;
use serde_json::{Value, json};

/// What to do. Without input the job is a child that has nothing to do.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Orders {
    /// Secrets whose length is told.
    secrets: Vec<String>,
    /// Names to read.
    get: Vec<String>,
    /// A name and what it shall stand for.
    set: Option<(String, String)>,
    /// Specs of children.
    children: Vec<Value>,
}

#[wasmjob::main]
fn main(orders: Option<Orders>) -> Result<Value, wasmjob::Error> {
    let orders = orders.unwrap_or_default();
    let secrets =
        orders.secrets.iter().map(|name| Ok(wasmjob::secret(name)?.len())).collect::<std::io::Result<Vec<_>>>()?;
    if let Some((name, value)) = orders.set {
        wasmjob::names::set(&name, &wasmjob::artifacts::put(value)?)?;
    }
    let names = orders.get.iter().map(|name| read(name)).collect::<Result<Vec<_>, _>>()?;
    let children = orders.children.iter().map(wasmjob::submit).collect::<std::io::Result<Vec<_>>>()?;
    Ok(json!({ "secrets": secrets, "names": names, "children": children }))
}

fn read(name: &str) -> Result<String, wasmjob::Error> {
    Ok(std::io::read_to_string(wasmjob::names::get(name)?.reader())?)
}
