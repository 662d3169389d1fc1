//! Every suite in one binary: linking is most of the time that a test binary costs.
#![allow(clippy::unwrap_used, missing_docs)]

mod artifact_cache;
mod artifacts;
mod bad_input;
mod commands;
mod faults;
mod layers;
mod network;
mod nodes;
mod run;
mod sandbox;
mod server;
