//! Statistics of any CSV, in bounded memory: what pandas' `describe()` says, to nine digits.
//!
//! A CSV of any size is read several times instead of being kept. The first pass learns the names,
//! the types, counts, sums and extremes; the second adds the squared deviations and begins to
//! narrow down the quartiles, which may take a few passes more.
//!
//! - `fields` and `table`: the CSV as fields and as rows; `header`: the columns' names.
//! - `number`: what counts as missing, as a number, and as text.
//! - `tally`: the first pass over a column; `quartiles`: the passes after it.
//! - `report`: the output.

mod fields;
mod header;
mod number;
mod quartiles;
mod report;
mod table;
mod tally;

use wasmjob::{Error, Input};

use number::Value;
use quartiles::Quartiles;
use report::{Profile, Statistics};
use table::Table;
use tally::{Sum, Tally};

#[wasmjob::main]
fn main(input: Input) -> Result<Profile, Error> {
    let (rows, mut columns) = survey(&input)?;
    let mut pass = 2;
    while !narrow(&input, &mut columns, pass)? {
        pass += 1;
    }
    wasmjob::info!("{rows} rows, {} numeric columns, {pass} passes", columns.iter().flatten().count());
    Ok(Profile { rows, columns: columns.iter().flatten().map(Column::statistics).collect() })
}

/// One numeric column on its way through the passes.
struct Column {
    name: String,
    tally: Tally,
    mean: f64,
    squares: Sum,
    quartiles: Quartiles,
}

impl Column {
    fn new(name: String, tally: Tally) -> Column {
        let quartiles = Quartiles::new(tally.count, tally.min, tally.max);
        let mean = tally.mean();
        let mut squares = Sum::default();
        if tally.is_constant() {
            squares.add((tally.min - mean).powi(2) * tally.count as f64);
        }
        Column { name, mean, squares, quartiles, tally }
    }

    fn statistics(&self) -> Statistics {
        let degrees_of_freedom = self.tally.count.saturating_sub(1) as f64;
        let [p25, p50, p75] = self.quartiles.values();
        Statistics {
            name: self.name.clone(),
            count: self.tally.count,
            mean: self.mean.into(),
            // 0 / 0 for a single value, which has no deviation.
            std: (self.squares.total() / degrees_of_freedom).sqrt().into(),
            min: self.tally.min.into(),
            p25: p25.into(),
            p50: p50.into(),
            p75: p75.into(),
            max: self.tally.max.into(),
        }
    }
}

/// The first pass: rows, and a column for every one that is numeric.
fn survey(input: &Input) -> Result<(u64, Vec<Option<Column>>), Error> {
    let table = Table::open(input)?;
    let names = table.names.clone();
    let mut tallies = vec![Tally::default(); names.len()];
    let rows = table.each_field("pass 1: counts and extremes", |column, field| {
        let tally = &mut tallies[column];
        if !tally.text {
            tally.add(number::parse(field));
        }
    })?;
    let columns = names.into_iter().zip(tallies);
    let numeric = |(name, tally): (String, Tally)| {
        // Without a row there is no type either.
        (rows > 0 && tally.is_numeric()).then(|| Column::new(name, tally))
    };
    Ok((rows, columns.map(numeric).collect()))
}

/// Another pass. Returns whether everything is known now.
fn narrow(input: &Input, columns: &mut [Option<Column>], pass: u32) -> Result<bool, Error> {
    let windows: usize = columns.iter().flatten().map(|c| c.quartiles.windows()).sum();
    if windows == 0 {
        return Ok(true);
    }
    for column in columns.iter_mut().flatten() {
        column.quartiles.begin(windows);
    }
    let label = format!("pass {pass}: quartiles");
    Table::open(input)?.each_field(&label, |column, field| {
        let Some(column) = &mut columns[column] else { return };
        if let Value::Integer(value, _) | Value::Real(value) = number::parse(field) {
            if pass == 2 && !column.tally.is_constant() {
                column.squares.add((value - column.mean).powi(2));
            }
            column.quartiles.add(value);
        }
    })?;
    for column in columns.iter_mut().flatten() {
        column.quartiles.finish();
    }
    Ok(columns.iter().flatten().all(|column| column.quartiles.windows() == 0))
}
