//! Write a wasmjob job: an attribute on `main`, serde types, and otherwise the standard library.
//!
//! ```no_run
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Deserialize)]
//! struct Input {
//!     numbers: Vec<f64>,
//! }
//!
//! #[derive(Serialize)]
//! struct Output {
//!     mean: f64,
//! }
//!
//! #[wasmjob::main]
//! fn main(input: Input) -> Result<Output, wasmjob::Error> {
//!     if input.numbers.is_empty() {
//!         return Err(wasmjob::Error::permanent("no numbers: the mean of none is undefined"));
//!     }
//!     let count = input.numbers.len() as f64;
//!     wasmjob::info!("{count} numbers");
//!     Ok(Output { mean: input.numbers.iter().sum::<f64>() / count })
//! }
//! ```
//!
//! A job is an ordinary program. Built with `cargo build --release --target wasm32-wasip2` it is a
//! component that exports the world `wasmjob:job/job`, ready for `wasmjob submit`. Built for your
//! own machine it reads its input from standard input, prints its output to standard output, and
//! exits with 1 if it failed: `echo '{"numbers":[1,3]}' | cargo run`.
//!
//! # What `main` may look like
//!
//! | | type | meaning |
//! |---|---|---|
//! | takes | nothing | the input is not read |
//! | | any `T: DeserializeOwned` | JSON; an empty input is `null`, so `Option<T>` makes it optional |
//! | | [`Input`] | the input as a handle: read it as a stream, from anywhere, as often as you like |
//! | | [`Bytes`], [`Text`] | the whole input, as it is |
//! | returns | nothing | the output is empty |
//! | | any `T: Serialize` | JSON |
//! | | [`Bytes`], [`Text`] | these bytes |
//! | | [`Artifact`] | that artifact, without a copy |
//! | | `Result<any of these, E>` | `E` is [`Error`], any `std::error::Error`, `Box<dyn Error>` or a string |
//!
//! # What a job can use
//!
//! - [`info!`] and its siblings write to the job's log, [`progress`] tells how far it is, and
//!   [`cancelled`] says whether it should stop. [`job_id`] and [`attempt`] name it.
//! - [`artifacts`] opens and writes large data by digest. Only what is read is in memory.
//! - [`names`] finds and names artifacts (`--grant artifacts=PREFIX:ro|rw`), [`submit`] starts other jobs (`--grant jobs=N`),
//!   [`secret`] is what the operator keeps (`--secret NAME`).
//! - Everything in `std` that its grants allow: arguments, environment and clocks always; files
//!   and sockets when they were granted.
//! - Panicking ends the attempt as a trap, with the message in the job's standard error.
//!
//! # Testing a job
//!
//! `cargo test` runs on your own machine. There [`artifacts::put`] makes an [`Input`] out of
//! bytes, artifacts live in memory until the process ends, the log goes to standard error, nothing
//! is cancelled, the job id is 26 zeros and the attempt is 1.
//!
//! ```
//! use std::io::BufRead;
//!
//! fn longest_line(input: wasmjob::Input) -> Result<usize, wasmjob::Error> {
//!     let mut longest = 0;
//!     for line in input.lines() {
//!         longest = longest.max(line?.len());
//!     }
//!     Ok(longest)
//! }
//!
//! let input = wasmjob::artifacts::put("one\nthree\ntwo\n")?;
//! assert_eq!(longest_line(input)?, 5);
//! # Ok::<(), wasmjob::Error>(())
//! ```

#[doc(hidden)]
pub mod __private;
pub mod artifacts;
mod context;
mod error;
mod host;
mod log;
pub mod names;
mod secret;
mod submit;
mod value;

pub use artifacts::{Artifact, Input};
pub use context::{attempt, cancelled, job_id, progress};
pub use error::{Error, Result};
pub use log::Level;
pub use secret::secret;
pub use submit::submit;
pub use value::{Bytes, FromInput, IntoOutput, Output, Text};

/// Makes `main` a job.
///
/// See the [crate documentation](crate#what-main-may-look-like) for what `main` may take and return.
/// The function stays callable by nobody but the host: put what you want to test in functions of
/// their own.
pub use wasmjob_macros::main;
