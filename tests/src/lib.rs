//! Real servers, nodes and commands for the suites: each test starts its own, on free ports and in
//! temporary folders, and they end with the test.

pub mod alone;
mod cluster;
pub mod guest;
mod machine;
mod nats;
mod process;
mod s3;

pub use cluster::{Cluster, Node, Seen};
pub use machine::{Machine, Said, Started, binary};
pub use nats::NatsServer;
pub use process::{Process, compilers, is_running, send, until};
pub use s3::S3Server;
