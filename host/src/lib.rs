//! The node service and the command line of wasmjob.

pub mod config;
pub mod connect;
pub mod http;
pub mod metrics;
pub mod server;
pub mod telemetry;
pub mod units;
