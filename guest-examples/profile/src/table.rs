//! The rows of a CSV: a header, and records that are matched with it.

use wasmjob::{Error, Input};

use crate::fields::{FIELD_BYTES_MAX, Field, Fields};
use crate::header;

/// Bounds the memory for names and what is known about each column.
const COLUMNS_MAX: usize = 10_000;

/// Fields between two reports of progress: some milliseconds of work.
const FIELDS_PER_REPORT: u64 = 1 << 18;

/// A CSV whose header was read.
pub struct Table {
    fields: Fields,
    /// The columns' names, made distinct.
    pub names: Vec<String>,
}

impl Table {
    /// Reads the header. Errors: permanent if there is none, or more columns than can be kept.
    pub fn open(input: &Input) -> Result<Table, Error> {
        let mut fields = Fields::new(input.reader());
        let mut names = Vec::new();
        loop {
            let Some(field) = fields.next()? else {
                return Err(Error::permanent("the CSV is empty: there is not even a header"));
            };
            if names.is_empty() && field.is_blank_line() {
                continue;
            }
            names.push(name(&field, names.len() + 1)?);
            if field.last {
                return Ok(Table { fields, names: header::distinct(&names) });
            }
        }
    }

    /// Calls `visit` with the column and the content of every field (`None`: too long to be kept),
    /// record by record, and returns how many records there are. What a short record lacks is
    /// empty. Reports progress as `label`.
    ///
    /// Errors: permanent if a record has more fields than the header.
    pub fn each_field(mut self, label: &str, mut visit: impl FnMut(usize, Option<&[u8]>)) -> Result<u64, Error> {
        let columns = self.names.len();
        let (mut rows, mut column, mut count) = (0, 0, 0_u64);
        loop {
            if count.is_multiple_of(FIELDS_PER_REPORT) {
                self.fields.report(label)?;
            }
            count += 1;
            let Some(field) = self.fields.next()? else { return Ok(rows) };
            if column == 0 && field.is_blank_line() {
                continue;
            }
            if column == columns {
                return Err(too_long(field.line, columns));
            }
            visit(column, field.content);
            column += 1;
            if field.last {
                (column..columns).for_each(|absent| visit(absent, Some(b"")));
                rows += 1;
                column = 0;
            }
        }
    }
}

fn name(field: &Field<'_>, number: usize) -> Result<String, Error> {
    if number > COLUMNS_MAX {
        let message = format!("line {}: more than {COLUMNS_MAX} columns", field.line);
        return Err(Error::permanent(message));
    }
    let content = field.content.ok_or_else(|| {
        let message = format!("the name of column {number} is longer than {FIELD_BYTES_MAX} bytes");
        Error::permanent(message)
    })?;
    Ok(String::from_utf8_lossy(content).into_owned())
}

fn too_long(line: u64, columns: usize) -> Error {
    let fields = if columns == 1 { "field" } else { "fields" };
    Error::permanent(format!("line {line}: more than {columns} {fields}, which is what the header has"))
}
