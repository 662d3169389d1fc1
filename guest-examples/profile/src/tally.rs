//! What the first pass learns about a column.

use crate::number::{Value, Width};

/// A sum that does not lose what is small beside what is large (Neumaier).
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    sum: f64,
    lost: f64,
}

impl Sum {
    pub fn add(&mut self, value: f64) {
        let sum = self.sum + value;
        self.lost += if self.sum.abs() >= value.abs() { (self.sum - sum) + value } else { (value - sum) + self.sum };
        self.sum = sum;
    }

    pub fn total(&self) -> f64 {
        // What infinities lose is no number.
        if self.sum.is_finite() { self.sum + self.lost } else { self.sum }
    }
}

#[derive(Clone, Debug)]
pub struct Tally {
    /// Values that are there.
    pub count: u64,
    pub min: f64,
    pub max: f64,
    /// Something in the column is no number: nothing else is counted any more.
    pub text: bool,
    sum: Sum,
    missing: bool,
    negative: bool,
    real: bool,
    unsigned: bool,
    beyond: bool,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally {
            count: 0,
            min: f64::NAN,
            max: f64::NAN,
            text: false,
            sum: Sum::default(),
            missing: false,
            negative: false,
            real: false,
            unsigned: false,
            beyond: false,
        }
    }
}

impl Tally {
    pub fn add(&mut self, value: Value) {
        let number = match value {
            Value::Text => {
                self.text = true;
                return;
            }
            Value::Missing => {
                self.missing = true;
                return;
            }
            Value::Real(number) => {
                self.real = true;
                number
            }
            Value::Integer(number, width) => {
                self.unsigned |= width == Width::Unsigned;
                self.beyond |= width == Width::Beyond;
                number
            }
        };
        self.negative |= number < 0.0;
        self.count += 1;
        self.sum.add(number);
        self.min = self.min.min(number);
        self.max = self.max.max(number);
    }

    /// Whether pandas would describe the column. It keeps integers as integers as long as nothing
    /// in the column says otherwise, and finds no type for those too wide: not for any beyond 64
    /// bits, and not for unsigned ones beside negative or missing ones.
    pub fn is_numeric(&self) -> bool {
        let no_type = self.beyond || (self.unsigned && (self.negative || self.missing));
        !self.text && (self.real || !no_type)
    }

    /// Then the first pass knows all there is to know.
    pub fn is_constant(&self) -> bool {
        self.min == self.max
    }

    pub fn mean(&self) -> f64 {
        self.sum.total() / self.count as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::parse;

    fn tally(fields: &[&str]) -> Tally {
        let mut tally = Tally::default();
        fields.iter().for_each(|field| tally.add(parse(Some(field.as_bytes()))));
        tally
    }

    #[test]
    fn a_column_is_numeric_where_pandas_says_so() {
        let check = |expected: bool, fields: &[&str]| assert_eq!(tally(fields).is_numeric(), expected, "{fields:?}");
        check(true, &["1", "NA", "2.5"]);
        check(true, &["", "NA"]);
        check(false, &["1", "x"]);
        check(true, &["1", "9223372036854775808"]);
        check(false, &["-1", "9223372036854775808"]);
        check(false, &["1", "9223372036854775808", ""]);
        check(false, &["1", "18446744073709551616"]);
        check(true, &["1.5", "18446744073709551616", ""]);
    }

    #[test]
    fn small_values_survive_beside_large_ones() {
        assert_eq!(tally(&["1e16", "1", "1", "-1e16"]).mean(), 0.5);
        assert_eq!(tally(&["inf", "1"]).mean(), f64::INFINITY);
        assert!(tally(&["inf", "-inf"]).mean().is_nan());
        assert!(tally(&[]).mean().is_nan());
    }
}
