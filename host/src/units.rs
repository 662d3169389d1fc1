//! Sizes and durations as people write them: `64MiB`, `1000000`, `5s`, `1h30m`.
//!
//! Both directions are here, so that what `wasmjob config` prints can be pasted back into a file.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A number of bytes.
/// Written `1000000`, `64KiB`, `1.5GiB` (powers of 1024) or `10MB` (powers of 1000).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A length of time.
/// Written `250ms`, `5s`, `2h`, or compound as in `1h30m`. A bare number is refused: of what?
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// Why a size or a duration could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a number followed by a unit at all.
    #[error("`{text}` is not {wanted}")]
    Malformed {
        /// What was given.
        text: String,
        /// What would have been right, with examples.
        wanted: &'static str,
    },
    /// A number, but of nothing that is known.
    #[error("`{unit}` is not a unit in `{text}`: expected one of {known}")]
    Unit {
        /// What was given.
        text: String,
        /// The part that is no unit.
        unit: String,
        /// The units there are.
        known: &'static str,
    },
    /// Larger than the platform can count.
    #[error("`{text}` is too large")]
    TooLarge {
        /// What was given.
        text: String,
    },
}

const SIZES: &[(&str, u64)] = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("B", 1),
];
const SIZE_WANTED: &str = "a size such as 64MiB, 1.5GiB or 1000000";
const SIZE_UNITS: &str = "B, KiB, MiB, GiB, TiB, kB, MB, GB, TB";

/// Units of time in nanoseconds, largest first.
const SPANS: &[(&str, u128)] = &[
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];
const SPAN_WANTED: &str = "a duration such as 250ms, 5s, 1h30m";
const SPAN_UNITS: &str = "ns, us, ms, s, m, h, d";

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let trimmed = text.trim();
        let (number, unit) = split_number(trimmed);
        let factor = match unit.trim() {
            "" => 1,
            unit => find(SIZES, unit).ok_or_else(|| unknown(text, unit, SIZE_UNITS))?,
        };
        let bytes =
            scale(number, u128::from(factor)).ok_or_else(|| malformed(text, SIZE_WANTED))?;
        let bytes = u64::try_from(bytes).map_err(|_| too_large(text))?;
        Ok(Size(bytes))
    }
}

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let mut rest = text.trim();
        if rest == "0" {
            return Ok(Span(Duration::ZERO));
        }
        let mut nanos: u128 = 0;
        while !rest.is_empty() {
            let (number, after) = split_number(rest);
            let end = after
                .find(|c: char| !c.is_ascii_alphabetic())
                .unwrap_or(after.len());
            let unit = &after[..end];
            if unit.is_empty() || number.is_empty() {
                return Err(malformed(text, SPAN_WANTED));
            }
            let factor = find(SPANS, unit).ok_or_else(|| unknown(text, unit, SPAN_UNITS))?;
            let part = scale(number, factor).ok_or_else(|| malformed(text, SPAN_WANTED))?;
            nanos = nanos.checked_add(part).ok_or_else(|| too_large(text))?;
            rest = &after[end..];
        }
        span_of(nanos, text)
    }
}

fn span_of(nanos: u128, text: &str) -> Result<Span, UnitError> {
    if nanos == 0 && !text.contains('0') {
        return Err(malformed(text, SPAN_WANTED));
    }
    let nanos = u64::try_from(nanos).map_err(|_| too_large(text))?;
    Ok(Span(Duration::from_nanos(nanos)))
}

/// Splits `1.5GiB` into `1.5` and `GiB`.
fn split_number(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    text.split_at(end)
}

/// Multiplies a decimal number as text by a unit, exactly: floating point would make
/// `16777217.0KiB` a different number of bytes.
fn scale(number: &str, factor: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 9 || (number.contains('.') && fraction.is_empty()) {
        return None;
    }
    let whole: u128 = whole.parse().ok()?;
    let mut total = whole.checked_mul(factor)?;
    if !fraction.is_empty() {
        let digits: u128 = fraction.parse().ok()?;
        let power = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        total = total.checked_add(digits.checked_mul(factor)? / power)?;
    }
    Some(total)
}

fn find<N: Copy>(units: &[(&str, N)], name: &str) -> Option<N> {
    units
        .iter()
        .find(|(unit, _)| *unit == name)
        .map(|(_, factor)| *factor)
}

fn malformed(text: &str, wanted: &'static str) -> UnitError {
    UnitError::Malformed {
        text: text.to_owned(),
        wanted,
    }
}

fn unknown(text: &str, unit: &str, known: &'static str) -> UnitError {
    UnitError::Unit {
        text: text.to_owned(),
        unit: unit.to_owned(),
        known,
    }
}

fn too_large(text: &str) -> UnitError {
    UnitError::TooLarge {
        text: text.to_owned(),
    }
}

impl fmt::Display for Size {
    /// The largest binary unit, exact where that is short and with one decimal otherwise.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = SIZES[..4].iter().find(|(_, factor)| self.0 >= *factor);
        match unit {
            None => write!(f, "{}B", self.0),
            Some((name, factor)) if self.0 % factor == 0 => write!(f, "{}{name}", self.0 / factor),
            Some((name, factor)) => {
                let tenths = u128::from(self.0) * 10 / u128::from(*factor);
                write!(f, "{}.{}{name}", tenths / 10, tenths % 10)
            }
        }
    }
}

impl fmt::Display for Span {
    /// The two largest units that matter, so `5400s` reads `1h30m` and `1234567us` reads `1s234ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_nanos();
        if rest == 0 {
            return f.write_str("0s");
        }
        let mut shown = 0;
        for (name, factor) in SPANS {
            let count = rest / factor;
            rest %= factor;
            if count > 0 {
                write!(f, "{count}{name}")?;
            }
            shown += u32::from(count > 0 || shown > 0);
            if shown == 2 {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        let cases = [
            ("0", 0, "0B"),
            ("1000000", 1_000_000, "976.5KiB"),
            ("64MiB", 64 << 20, "64MiB"),
            ("1.5GiB", 3 << 29, "1.5GiB"),
            ("10MB", 10_000_000, "9.5MiB"),
            (" 512 KiB ", 512 << 10, "512KiB"),
            ("2TiB", 2 << 40, "2TiB"),
        ];
        for (text, bytes, shown) in cases {
            let size: Size = text.parse().unwrap();
            assert_eq!(size, Size(bytes), "{text}");
            assert_eq!(size.to_string(), shown, "{text}");
        }
    }

    #[test]
    fn durations_are_read_and_written() {
        let cases = [
            ("250ms", 250, "250ms"),
            ("5s", 5_000, "5s"),
            ("1.5s", 1_500, "1s500ms"),
            ("2h", 7_200_000, "2h"),
            ("1h30m", 5_400_000, "1h30m"),
            ("90m", 5_400_000, "1h30m"),
            ("7d", 604_800_000, "7d"),
            ("0", 0, "0s"),
            ("0s", 0, "0s"),
        ];
        for (text, ms, shown) in cases {
            let span: Span = text.parse().unwrap();
            assert_eq!(span, Span(Duration::from_millis(ms)), "{text}");
            assert_eq!(span.to_string(), shown, "{text}");
        }
    }

    #[test]
    fn wrong_units_say_what_is_valid() {
        for text in ["", "MiB", "-1", "1..5MiB", "1.MiB", "99999999999TiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        for text in ["", "5", "s", "-5s", "5s3", "999999999999d"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
        let wrong = "5 parsecs".parse::<Size>().unwrap_err();
        assert!(wrong.to_string().contains("KiB"), "{wrong}");
        let wrong = "5weeks".parse::<Span>().unwrap_err();
        assert!(wrong.to_string().contains("weeks"), "{wrong}");
    }
}
