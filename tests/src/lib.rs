//! Real servers for the suites: each test starts its own, on a free port, and it ends with the test.

mod nats;
mod s3;

pub use nats::NatsServer;
pub use s3::S3Server;
