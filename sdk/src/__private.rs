//! What `#[wasmjob::main]` expands to. Not for use by hand: it changes without notice.

use std::error::Error as StdError;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

pub use crate::log::write as log;
use crate::{Artifact, Error, FromInput, Input, IntoOutput, Output, host};

#[cfg(target_arch = "wasm32")]
pub use crate::host::bindings;

/// `main` with its input read and its output made, whatever its signature.
pub type Job = fn(Input) -> Result<Output, Error>;

pub fn input<T: FromInput>(input: Input) -> Result<T, Error> {
    T::from_input(input)
}

pub fn output(value: impl IntoOutput) -> Result<Output, Error> {
    value.into_output()
}

pub fn result<T: IntoOutput, E: Into<Box<dyn StdError>>>(result: Result<T, E>) -> Result<Output, Error> {
    result.map_err(|error| Error::from_boxed(error.into()))?.into_output()
}

/// The job as a plain command: standard input, standard output, and the exit code.
pub fn command(job: Job) -> ExitCode {
    let stdin = host::stdin().map_err(|e| Error::from(e).context("standard input"));
    let done = stdin.and_then(|blob| job(Artifact::new(Arc::new(blob)))).and_then(print);
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print(output: Output) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    let written = match output {
        Output::Bytes(bytes) => stdout.write_all(&bytes),
        Output::Artifact(artifact) => io::copy(&mut artifact.reader(), &mut stdout).map(drop),
    };
    let ended = written.and_then(|()| if stdout.is_terminal() { writeln!(stdout) } else { Ok(()) });
    ended.and_then(|()| stdout.flush()).map_err(|e| Error::from(e).context("standard output"))
}

/// The job as the world's export.
#[cfg(target_arch = "wasm32")]
pub fn run(job: Job, input: host::HostBlob) -> Result<bindings::Output, bindings::Failure> {
    match job(Artifact::new(Arc::new(host::Blob::new(input)))).and_then(hand_over) {
        Ok(output) => Ok(output),
        Err(error) => Err(bindings::Failure { message: error.to_string(), retryable: error.is_retryable() }),
    }
}

#[cfg(target_arch = "wasm32")]
fn hand_over(output: Output) -> Result<bindings::Output, Error> {
    Ok(match output {
        // More than a host takes in one call is written in pieces.
        Output::Bytes(bytes) if bytes.len() > RETURNED_BYTES_MAX => {
            bindings::Output::Artifact(handle(crate::artifacts::put(&bytes)?)?)
        }
        Output::Bytes(bytes) => bindings::Output::Bytes(bytes),
        Output::Artifact(artifact) => bindings::Output::Artifact(handle(artifact)?),
    })
}

#[cfg(target_arch = "wasm32")]
const RETURNED_BYTES_MAX: usize = 1024 * 1024;

/// The one handle to an artifact, to give away.
#[cfg(target_arch = "wasm32")]
fn handle(artifact: Artifact) -> Result<host::HostBlob, Error> {
    match Arc::try_unwrap(artifact.into_blob()) {
        Ok(blob) => Ok(blob.into_handle()),
        // Somebody (a static, say) holds on to this one: a second one is only made by writing.
        Err(shared) => {
            let mut writer = crate::artifacts::create()?;
            io::copy(&mut Artifact::new(shared), &mut writer)?;
            handle(writer.finish()?)
        }
    }
}

/// Exports a [`Job`] from the component. Nothing to do away from a node.
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    ($job:path) => {
        #[allow(unsafe_code)]
        const _: () = {
            struct Component;
            impl $crate::__private::bindings::Guest for Component {
                fn run(
                    input: $crate::__private::bindings::Blob,
                ) -> ::std::result::Result<$crate::__private::bindings::Output, $crate::__private::bindings::Failure>
                {
                    $crate::__private::run($job, input)
                }
            }
    $crate::__private::bindings::export_job!(Component with_types_in $crate::__private::bindings);
        };
    };
}

/// Exports a [`Job`] from the component. Nothing to do away from a node.
#[cfg(not(target_arch = "wasm32"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    ($job:path) => {};
}
