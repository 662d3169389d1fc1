//! Every suite in one binary: linking is most of the time that a test binary costs.
#![allow(clippy::unwrap_used, missing_docs)]

mod artifact_cache;
mod artifacts;
mod layers;
mod sandbox;
mod server;
