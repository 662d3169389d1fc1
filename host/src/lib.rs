//! The node service and the command line of wasmjob.
//!
//! `cli` has one file for each subcommand; `node` starts a node and `worker` is what its slots do;
//! `lifecycle` decides what happens to a job and knows no I/O; `wire` is the JSON, `queue` all of
//! JetStream, `artifacts` all of the stores; `server` runs a nats-server for `up`.

pub mod artifacts;
pub mod cancels;
pub mod cli;
mod compiler;
pub mod config;
pub mod connect;
mod expiries;
pub mod grants;
pub mod http;
pub mod lanes;
pub mod lifecycle;
pub mod limit_values;
pub mod metrics;
pub mod names;
pub mod node;
pub mod node_artifacts;
pub mod nodes;
pub mod private;
pub mod queue;
pub mod reconciler;
pub mod retry;
pub mod rules;
pub mod schedule;
pub mod server;
pub mod server_time;
pub mod telemetry;
pub mod ticks;
pub mod units;
pub mod wire;
pub mod worker;
