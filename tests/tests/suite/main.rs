//! Every suite in one binary: linking is most of the time that a test binary costs.
#![allow(clippy::unwrap_used, missing_docs)]

mod artifact_cache;
mod artifacts;
mod bad_input;
mod commands;
mod compile;
mod faults;
mod fuzz_seeds;
mod grants;
mod hostile;
mod inspect;
mod keys;
mod layers;
mod network;
mod nodes;
mod priorities;
mod queues;
mod retries;
mod run;
mod sandbox;
mod schedules;
mod server;
mod signatures;
mod wasi;
