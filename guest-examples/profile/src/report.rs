//! The output.

use serde::{Serialize, Serializer};

#[derive(Serialize)]
pub struct Profile {
    pub rows: u64,
    /// The numeric ones, in the order of the CSV.
    pub columns: Vec<Statistics>,
}

#[derive(Serialize)]
pub struct Statistics {
    pub name: String,
    /// Values that are there.
    pub count: u64,
    pub mean: Number,
    /// Of a sample: divided by `count - 1`.
    pub std: Number,
    pub min: Number,
    pub p25: Number,
    pub p50: Number,
    pub p75: Number,
    pub max: Number,
}

/// A float as JSON has it: `null` where there is none, and infinities as the strings `inf` and
/// `-inf`, for which JSON has no number.
pub struct Number(f64);

impl From<f64> for Number {
    fn from(value: f64) -> Number {
        Number(value)
    }
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            value if value.is_nan() => serializer.serialize_none(),
            f64::INFINITY => serializer.serialize_str("inf"),
            f64::NEG_INFINITY => serializer.serialize_str("-inf"),
            value => serializer.serialize_f64(value),
        }
    }
}
