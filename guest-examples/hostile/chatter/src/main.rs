//! Talks without end: to its log if the input is `log`, about its progress otherwise.

use wasmjob::Text;

/// More than a line of the log or a message of progress may have.
const LINE_BYTES: usize = 64 * 1024;

#[wasmjob::main]
fn main(input: Text) -> Text {
    let line = "x".repeat(LINE_BYTES);
    for turn in 0_u64.. {
        if input.0 == "log" {
            wasmjob::info!("{line}");
        } else {
            wasmjob::progress(turn, None, &line);
        }
    }
    input
}
