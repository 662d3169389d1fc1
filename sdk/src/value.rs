//! What `main` takes and returns, and how it is read from the input and made an output.

use std::any::TypeId;
use std::io::Read;

use serde::Serialize;
use serde::de::value::{Error as ValueError, UnitDeserializer};
use serde::de::{DeserializeOwned, IntoDeserializer};

use crate::{Artifact, Error, Input};

/// Bytes as they are, instead of JSON.
///
/// ```no_run
/// #[wasmjob::main]
/// fn main(input: wasmjob::Bytes) -> wasmjob::Bytes {
///     wasmjob::Bytes(input.0.into_iter().rev().collect())
/// }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes(
    /// The bytes.
    pub Vec<u8>,
);

/// Text as it is, instead of JSON. An input that is not UTF-8 is a permanent error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text(
    /// The text.
    pub String,
);

/// What `main` can take: anything that serde reads from JSON, or [`Input`], [`Bytes`], [`Text`].
pub trait FromInput: Sized {
    /// Reads the job's input. Errors: permanent if the input is not what `Self` expects.
    fn from_input(input: Input) -> Result<Self, Error>;
}

/// What `main` can return: anything that serde writes as JSON, or [`Artifact`], [`Bytes`], [`Text`].
pub trait IntoOutput {
    /// Makes the job's output. Errors: permanent if `self` cannot be written as JSON.
    fn into_output(self) -> Result<Output, Error>;
}

/// A job's output.
#[derive(Debug)]
pub enum Output {
    /// The output itself. The host keeps a large one as an artifact.
    Bytes(Vec<u8>),
    /// Bytes that are an artifact already.
    Artifact(Artifact),
}

impl<T: DeserializeOwned> FromInput for T {
    fn from_input(mut input: Input) -> Result<T, Error> {
        let bytes = whole(&mut input)?;
        if bytes.trim_ascii().is_empty() {
            return from_nothing();
        }
        serde_json::from_slice(&bytes).map_err(|e| Error::permanent(e).context("input"))
    }
}

impl FromInput for Artifact {
    fn from_input(input: Input) -> Result<Artifact, Error> {
        Ok(input)
    }
}

impl FromInput for Bytes {
    fn from_input(mut input: Input) -> Result<Bytes, Error> {
        whole(&mut input).map(Bytes)
    }
}

impl FromInput for Text {
    fn from_input(mut input: Input) -> Result<Text, Error> {
        let text = String::from_utf8(whole(&mut input)?);
        text.map(Text).map_err(|e| Error::permanent(e.utf8_error()).context("input"))
    }
}

fn whole(input: &mut Input) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes).map_err(|e| Error::from(e).context("input"))?;
    Ok(bytes)
}

/// No input is no value: `None` and `()` can be made of it, the rest says what it would have liked.
fn from_nothing<T: DeserializeOwned>() -> Result<T, Error> {
    let nothing: UnitDeserializer<ValueError> = ().into_deserializer();
    T::deserialize(nothing).map_err(|error| {
        let error = error.to_string();
        let expected = error.split_once("expected ").map_or("JSON", |(_, expected)| expected);
        Error::permanent(format!("input: empty, expected {expected} as JSON"))
    })
}

impl<T: Serialize + 'static> IntoOutput for T {
    fn into_output(self) -> Result<Output, Error> {
        // `Ok(())` means there is nothing to say; `null` would be an output.
        if TypeId::of::<T>() == TypeId::of::<()>() {
            return Ok(Output::Bytes(Vec::new()));
        }
        let json = serde_json::to_vec(&self);
        json.map(Output::Bytes).map_err(|e| Error::permanent(e).context("output"))
    }
}

impl IntoOutput for Artifact {
    fn into_output(self) -> Result<Output, Error> {
        Ok(Output::Artifact(self))
    }
}

impl IntoOutput for Bytes {
    fn into_output(self) -> Result<Output, Error> {
        Ok(Output::Bytes(self.0))
    }
}

impl IntoOutput for Text {
    fn into_output(self) -> Result<Output, Error> {
        Ok(Output::Bytes(self.0.into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifacts;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Spec {
        n: u64,
    }

    fn read<T: FromInput>(input: &[u8]) -> Result<T, Error> {
        T::from_input(artifacts::put(input).unwrap())
    }

    fn check_refused<T: FromInput + std::fmt::Debug>(input: &[u8], expected: &str) {
        let error = read::<T>(input).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert!(!error.is_retryable());
    }

    #[test]
    fn json_is_read_into_the_type_of_main() {
        assert_eq!(read::<Spec>(br#"{"n":3}"#).unwrap(), Spec { n: 3 });
        assert_eq!(read::<Option<Spec>>(b" \n").unwrap(), None);
        read::<()>(b"").unwrap();
    }

    #[test]
    fn an_input_of_the_wrong_shape_says_what_and_where() {
        check_refused::<Spec>(b"", "input: empty, expected struct Spec as JSON");
        check_refused::<u64>(b"", "input: empty, expected u64 as JSON");
        check_refused::<Spec>(br#"{"m":3}"#, "input: missing field `n` at line 1 column 7");
        check_refused::<Vec<u8>>(b"[256]", "input: invalid value: integer `256`, expected u8 at line 1 column 4");
        check_refused::<Text>(b"ab\xff", "input: invalid utf-8 sequence of 1 bytes from index 2");
    }

    #[test]
    fn raw_inputs_are_not_json() {
        assert_eq!(read::<Text>(b"{").unwrap(), Text("{".into()));
        assert_eq!(read::<Bytes>(b"\xff").unwrap(), Bytes(vec![0xff]));
    }

    #[test]
    fn unit_is_no_output_and_none_is_null() {
        let bytes = |output| match output {
            Ok(Output::Bytes(bytes)) => String::from_utf8(bytes).unwrap(),
            other => panic!("{other:?}"),
        };
        assert_eq!(bytes(().into_output()), "");
        assert_eq!(bytes(None::<u8>.into_output()), "null");
        assert_eq!(bytes(Text("a".into()).into_output()), "a");
    }
}
