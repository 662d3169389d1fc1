//! The JSON that crosses the wire: job specs in, reports out. Other clients rely on these names.

pub mod class;
mod grant;
mod id;
mod report;
mod spec;

pub use grant::{FORMS as GRANT_FORMS, GRANTS_MAX, Grant, GrantSyntaxError};
pub use id::{JobId, new_job_id};
pub use report::{AttemptRecord, OutputValue, Report, State, Times, timestamp};
pub use spec::{Concurrency, Deterministic, Input, JobSpec, LimitTable, Retry, SpecError, is_queue_name};
