//! The fields of a CSV one after the other, whatever their length.

use std::io::{BufRead as _, Seek as _};

use csv_core::ReadFieldResult;
use wasmjob::{Error, Input};

/// What is kept of one field. No number and no sensible name is longer.
pub const FIELD_BYTES_MAX: usize = 4096;

/// One field of a record, without its quotes.
pub struct Field<'a> {
    /// `None` if it is longer than [`FIELD_BYTES_MAX`].
    pub content: Option<&'a [u8]>,
    /// Whether it ends its record.
    pub last: bool,
    /// Where it ends, counted from 1.
    pub line: u64,
}

impl Field<'_> {
    /// Whether this, as the first field of a record, is a line of blanks, which pandas skips too.
    pub fn is_blank_line(&self) -> bool {
        let blank = |content: &[u8]| content.iter().all(|byte| matches!(byte, b' ' | b'\t'));
        self.last && self.content.is_some_and(|content| !content.is_empty() && blank(content))
    }
}

pub struct Fields {
    input: Input,
    parser: csv_core::Reader,
    kept: Vec<u8>,
    /// Where the next field starts, blank lines aside.
    line: u64,
    ended: bool,
}

impl Fields {
    pub fn new(input: Input) -> Fields {
        Fields { input, parser: csv_core::Reader::new(), kept: vec![0; FIELD_BYTES_MAX + 1], line: 1, ended: false }
    }

    /// The next field. Errors: permanent if the input ends inside quotes.
    pub fn next(&mut self) -> Result<Option<Field<'_>>, Error> {
        let (mut length, mut whole) = (0, true);
        while !self.ended {
            let chunk = self.input.fill_buf()?;
            self.ended = chunk.is_empty();
            // A line end finishes the last record, unless it is taken for a part of it.
            let offered = if self.ended { b"\n" } else { chunk };
            let (result, read, written) = self.parser.read_field(offered, &mut self.kept[length..]);
            length += written;
            let line_end = offered[..read].ends_with(b"\n");
            if !self.ended {
                self.input.consume(read);
            }
            match result {
                ReadFieldResult::InputEmpty if self.ended && written > 0 => return Err(self.unclosed()),
                ReadFieldResult::InputEmpty => {}
                ReadFieldResult::OutputFull => {
                    (length, whole) = (0, false);
                    // The line end, if it was that, was not taken and is offered once more.
                    self.ended = false;
                }
                ReadFieldResult::Field { record_end } => {
                    let line = self.parser.line() - u64::from(record_end && line_end);
                    self.line = line + u64::from(record_end);
                    let content = (whole && length <= FIELD_BYTES_MAX).then(|| &self.kept[..length]);
                    return Ok(Some(Field { content, last: record_end, line }));
                }
                ReadFieldResult::End => break,
            }
        }
        Ok(None)
    }

    /// Tells how far it is, and stops where the job was cancelled.
    pub fn report(&mut self, label: &str) -> Result<(), Error> {
        wasmjob::progress(self.input.stream_position()?, self.input.size(), label);
        if wasmjob::cancelled() {
            return Err(Error::permanent("cancelled"));
        }
        Ok(())
    }

    fn unclosed(&self) -> Error {
        let message = format!("line {}: a quoted field starts here and never ends", self.line);
        Error::permanent(message)
    }
}
