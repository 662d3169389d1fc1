//! What a job knows about itself, and tells about how far it is.

use crate::host;

/// The job's id: a ULID in lower case, the same in every attempt. 26 zeros away from a node.
pub fn job_id() -> String {
    host::job_id()
}

/// Which attempt this is, counted from 1.
pub fn attempt() -> u32 {
    host::attempt()
}

/// Whether the job should come to an end, because it was cancelled or its soft limit has passed.
///
/// A job that asks now and then can stop tidily; one that does not is stopped all the same.
pub fn cancelled() -> bool {
    host::cancelled()
}

/// Tells how much is done, in units of the job's own choice, and what it is at.
///
/// `total` is a number, or `None` where it is not known. Only the last call counts: the host shows
/// it about once a second and cuts `message` to 256 bytes. Calling it a thousand times a second is
/// a waste, not an error.
///
/// ```
/// wasmjob::progress(3, 10, "resizing images");
/// wasmjob::progress(4096, None, "reading");
/// ```
pub fn progress(done: u64, total: impl Into<Option<u64>>, message: impl AsRef<str>) {
    host::progress(done, total.into(), message.as_ref());
}
