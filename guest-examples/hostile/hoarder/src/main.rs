//! Holds artifacts until it is refused more, and reads them in the dearest way. The input says which.

use wasmjob::{Error, Text, artifacts};

/// Two groups of a blob, each of which the host hashes to give out a byte of it.
const TWO_GROUPS: usize = 2 * 256 * 1024;
/// More than a line of the log or a message of progress may have.
const LINE_BYTES: usize = 64 * 1024;

#[wasmjob::main]
fn main(input: Text) -> Result<Text, Error> {
    match input.0.as_str() {
        "writers" => Ok(Text(until_refused(artifacts::create))),
        "blobs" => Ok(Text(until_refused(|| artifacts::put("kept")))),
        "jumps" => jumps(),
        "line" => {
            let line = "x".repeat(LINE_BYTES);
            wasmjob::info!("{line}");
            wasmjob::progress(1, None, &line);
            Ok(input)
        }
        other => Err(Error::new(format!("`{other}` is none of writers, blobs, jumps and line"))),
    }
}

/// How many there were, and why there is not one more.
fn until_refused<T>(more: impl Fn() -> std::io::Result<T>) -> String {
    let mut held = Vec::new();
    loop {
        match more() {
            Ok(one) => held.push(one),
            Err(error) => return format!("{}: {error}", held.len()),
        }
    }
}

fn jumps() -> Result<Text, Error> {
    let blob = artifacts::put(vec![b'x'; TWO_GROUPS])?;
    let mut byte = [0];
    for turn in 0_u64.. {
        for offset in [0, TWO_GROUPS as u64 - 1] {
            blob.read_at(&mut byte, offset)?;
        }
        wasmjob::progress(turn, None, "");
    }
    Ok(Text(String::new()))
}
