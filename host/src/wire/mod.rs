//! The JSON that crosses the wire: job specs in, reports out. Other clients rely on these names.

mod id;
mod report;
mod spec;

pub use id::{JobId, new_job_id};
pub use report::{AttemptRecord, OutputValue, Report, State, Times, timestamp};
pub use spec::{Input, JobSpec, LimitTable, Retry, SpecError};
