//! Everything that `#[wasmjob::main]` may stand on.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use wasmjob::{Artifact, Bytes, Error, Input, Output, Text, artifacts};

fn check(job: fn(Input) -> Result<Output, Error>, input: &str, expected: Result<&str, (&str, bool)>) {
    let found = job(artifacts::put(input).unwrap()).map(|output| match output {
        Output::Bytes(bytes) => String::from_utf8(bytes).unwrap(),
        Output::Artifact(artifact) => std::io::read_to_string(artifact).unwrap(),
    });
    match (found, expected) {
        (Ok(found), Ok(expected)) => assert_eq!(found, expected),
        (Err(error), Err(expected)) => assert_eq!((error.to_string().as_str(), error.is_retryable()), expected),
        (found, expected) => panic!("{found:?} for {expected:?}"),
    }
}

/// A job in a module of its own, because there is one `main` in each.
macro_rules! shape {
    ($name:ident, $function:item, $($input:expr => $expected:expr),+) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            #[wasmjob::main]
            $function

            #[test]
            fn is_a_job() {
                $(check(__wasmjob_job, $input, $expected);)+
            }
        }
    };
}

shape!(nothing, fn main() {}, "ignored" => Ok(""));
shape!(no_input, fn main() -> u8 { 3 }, "" => Ok("3"));
shape!(json, fn main(input: Vec<u64>) -> u64 { input.iter().sum() },
    "[1,2]" => Ok("3"),
    "" => Err(("input: empty, expected a sequence as JSON", false)),
    "[1" => Err(("input: EOF while parsing a list at line 1 column 2", false)));
shape!(optional, fn main(input: Option<u64>) -> u64 { input.unwrap_or(7) }, "" => Ok("7"), "1" => Ok("1"));
shape!(mutable, fn main(mut input: Vec<u8>) -> Vec<u8> { input.push(0); input }, "[1]" => Ok("[1,0]"));
shape!(pattern, fn main((a, b): (u8, u8)) -> wasmjob::Result<u8> { Ok(a + b) }, "[1,2]" => Ok("3"));
shape!(text, fn main(Text(input): Text) -> Text { Text(input.to_uppercase()) }, "a" => Ok("A"));
shape!(bytes, fn main(input: Bytes) -> Bytes { input }, "a" => Ok("a"));
shape!(handle, fn main(input: Input) -> Artifact { input }, "abc" => Ok("abc"));
shape!(ours, fn main() -> Result<(), Error> { Err(Error::permanent("no")) }, "" => Err(("no", false)));
shape!(theirs, fn main(input: Text) -> Result<u8, std::num::ParseIntError> { input.0.parse() },
    "3" => Ok("3"), "x" => Err(("invalid digit found in string", true)));
shape!(boxed, fn main() -> Result<(), Box<dyn std::error::Error>> { Err("no".into()) }, "" => Err(("no", true)));
shape!(string, fn main() -> Result<(), String> { Err("no".into()) }, "" => Err(("no", true)));
shape!(question_mark, fn main(input: Vec<u8>) -> Result<Text, Error> { Ok(Text(String::from_utf8(input)?)) },
    "[255]" => Err(("invalid utf-8 sequence of 1 bytes from index 0", true)));
