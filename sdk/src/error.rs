//! Why a job did not succeed.

use std::error::Error as StdError;
use std::fmt;
use std::io;

/// [`std::result::Result`] with [`Error`] where no other error is named.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a job did not succeed: a sentence for the report, and whether another attempt makes sense.
///
/// `?` turns every error of other crates into one, with its causes joined by `: `. Such an error
/// lets the job be tried again, as far as its retry policy goes, unless it is an [`io::Error`] that
/// every attempt would meet: permission denied, invalid input, or a limit of the job.
///
/// Like other catch-all errors it does not implement [`std::error::Error`] itself.
///
/// ```
/// fn port(text: &str) -> Result<u16, wasmjob::Error> {
///     Ok(text.parse()?)
/// }
/// assert_eq!(port("http").unwrap_err().to_string(), "invalid digit found in string");
/// assert!(!wasmjob::Error::permanent("the file has no rows").is_retryable());
/// ```
pub struct Error {
    message: String,
    retryable: bool,
}

impl Error {
    /// A failure that another attempt may not meet again.
    pub fn new(message: impl fmt::Display) -> Error {
        Error { message: message.to_string(), retryable: true }
    }

    /// A failure that every attempt would meet: no retry is made, whatever the job's retry policy.
    pub fn permanent(message: impl fmt::Display) -> Error {
        Error { message: message.to_string(), retryable: false }
    }

    /// Whether another attempt could end differently.
    pub fn is_retryable(&self) -> bool {
        self.retryable
    }

    /// The same error, told to be about `what`: `what: message`.
    ///
    /// ```
    /// let error = wasmjob::Error::new("no such table").context("customers.db");
    /// assert_eq!(error.to_string(), "customers.db: no such table");
    /// ```
    #[must_use]
    pub fn context(self, what: impl fmt::Display) -> Error {
        Error { message: format!("{what}: {}", self.message), ..self }
    }

    fn from_std(error: &(dyn StdError + 'static)) -> Error {
        let retryable = error.downcast_ref::<io::Error>().is_none_or(|e| may_pass(e.kind()));
        Error { message: chain(error), retryable }
    }

    /// What `main` returned, whatever its error type is.
    pub(crate) fn from_boxed(error: Box<dyn StdError>) -> Error {
        match error.downcast::<Carried>() {
            Ok(carried) => carried.0,
            Err(other) => Error::from_std(other.as_ref()),
        }
    }
}

/// Another attempt has the same grants, the same limits and the same arguments.
fn may_pass(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, QuotaExceeded};
    !matches!(kind, InvalidInput | PermissionDenied | QuotaExceeded)
}

/// The message and its causes. A cause that the message before it already ends with is left out,
/// because many errors print their source themselves.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

impl<E: StdError + 'static> From<E> for Error {
    fn from(error: E) -> Error {
        Error::from_std(&error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The same as `Display`, so that `unwrap` in a test prints something a person can read.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// [`Error`] inside a boxed `std` error. `main` may return any error that converts into a box; this
/// is how ours gets through without losing whether it is permanent.
#[derive(Debug)]
struct Carried(Error);

impl fmt::Display for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for Carried {}

impl From<Error> for Box<dyn StdError> {
    fn from(error: Error) -> Box<dyn StdError> {
        Box::new(Carried(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Outer(io::Error);
    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("cannot read the table")
        }
    }
    impl StdError for Outer {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn causes_are_joined_and_not_repeated() {
        let error = Error::from(Outer(io::Error::other("disk on fire")));
        assert_eq!(error.to_string(), "cannot read the table: disk on fire");
        let error = Error::from(io::Error::other(io::Error::other("disk on fire")));
        assert_eq!(error.to_string(), "disk on fire");
    }

    #[test]
    fn an_error_stays_permanent_through_a_box() {
        let boxed: Box<dyn StdError> = Error::permanent("never").into();
        let error = Error::from_boxed(boxed);
        assert_eq!((error.to_string().as_str(), error.is_retryable()), ("never", false));
        assert!(Error::from_boxed("once".into()).is_retryable());
    }

    #[test]
    fn a_denied_call_is_not_worth_another_attempt() {
        assert!(!Error::from(io::Error::from(io::ErrorKind::PermissionDenied)).is_retryable());
        assert!(Error::from(io::Error::from(io::ErrorKind::NotFound)).is_retryable());
    }
}
