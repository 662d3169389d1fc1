//! What counts as missing, as a number and as text: the rules of pandas' `read_csv`.

/// How wide an integer is. pandas gives up on a column of integers that fit no type of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Width {
    Signed,
    /// More than a signed 64-bit integer holds, and no more than an unsigned one.
    Unsigned,
    Beyond,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    Missing,
    Integer(f64, Width),
    Real(f64),
    Text,
}

/// Reads one field; `None` is a field too long to be a number.
pub fn parse(field: Option<&[u8]>) -> Value {
    match field {
        None => Value::Text,
        Some(field) if is_missing(field) => Value::Missing,
        Some(field) => number(trim(field)).or_else(|| infinity(field)).unwrap_or(Value::Text),
    }
}

/// Exactly these: ` NA`, `na` and `NAN` are text.
fn is_missing(field: &[u8]) -> bool {
    matches!(
        field,
        b"" | b"NA"
            | b"NaN"
            | b"nan"
            | b"N/A"
            | b"n/a"
            | b"NULL"
            | b"null"
            | b"None"
            | b"<NA>"
            | b"#N/A"
            | b"#N/A N/A"
            | b"#NA"
            | b"-NaN"
            | b"-nan"
            | b"1.#IND"
            | b"1.#QNAN"
            | b"-1.#IND"
            | b"-1.#QNAN"
    )
}

/// Without the white space of C around it.
fn trim(field: &[u8]) -> &[u8] {
    let is_ink = |byte: &u8| !matches!(byte, b' ' | b'\t'..=b'\r');
    match (field.iter().position(is_ink), field.iter().rposition(is_ink)) {
        (Some(first), Some(last)) => &field[first..=last],
        _ => &[],
    }
}

fn number(field: &[u8]) -> Option<Value> {
    let digits = field.strip_prefix(b"-").or(field.strip_prefix(b"+")).unwrap_or(field);
    let integer = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    // `parse` would also take `inf` and `nan`, in more spellings than pandas does.
    let real = digits.iter().all(|b| matches!(b, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'));
    if !real {
        return None;
    }
    let text = std::str::from_utf8(field).ok()?;
    if !integer {
        return text.parse().ok().map(Value::Real);
    }
    if let Ok(value) = text.parse::<i64>() {
        return Some(Value::Integer(value as f64, Width::Signed));
    }
    let width = if text.parse::<u64>().is_ok() { Width::Unsigned } else { Width::Beyond };
    text.parse().ok().map(|value| Value::Integer(value, width))
}

fn infinity(field: &[u8]) -> Option<Value> {
    let (negative, word) = match field {
        [b'-', word @ ..] => (true, word),
        [b'+', word @ ..] => (false, word),
        word => (false, word),
    };
    let infinite = word.eq_ignore_ascii_case(b"inf") || word.eq_ignore_ascii_case(b"infinity");
    infinite.then_some(Value::Real(if negative { f64::NEG_INFINITY } else { f64::INFINITY }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(expected: Value, fields: &[&str]) {
        for field in fields {
            assert_eq!(parse(Some(field.as_bytes())), expected, "{field:?}");
        }
    }

    #[test]
    fn numbers_are_what_pandas_takes_for_one() {
        check(Value::Integer(5.0, Width::Signed), &["5", " 5 ", "\t5", "+5", "005", "\x0b5", "5\x0c"]);
        check(Value::Real(0.5), &[".5", "+.5", " 0.5", "5e-1", "5.E-1", "0.5 "]);
        check(Value::Real(f64::INFINITY), &["inf", "+inf", "INF", "Infinity", "1e309", "1e99999999999"]);
        check(Value::Real(f64::NEG_INFINITY), &["-inf", "-Infinity", "-1e309"]);
        check(Value::Real(0.0), &["1e-400", "1e-99999999999"]);
    }

    #[test]
    fn text_is_what_pandas_takes_for_text() {
        check(
            Value::Text,
            &[
                " ", ".", "e5", ".e5", "1e", "1e+", "1_0", "0x10", " inf", "inf ", "NAN", " NaN", "+nan", "none", "na",
                "Null", "True", "--5", "+-5", "1,5", "1 5", "1d5", "-", "+", "1e5.5", "1.5.5", "- 5", "$5", "١",
                "5\u{a0}",
            ],
        );
        assert_eq!(parse(Some(b"\xff")), Value::Text);
        assert_eq!(parse(None), Value::Text);
    }

    #[test]
    fn missing_is_what_pandas_takes_for_missing() {
        check(Value::Missing, &["", "NA", "NaN", "nan", "-nan", "#N/A N/A", "<NA>", "None", "null", "1.#QNAN"]);
    }

    #[test]
    fn wide_integers_know_how_wide_they_are() {
        check(Value::Integer(9_223_372_036_854_775_807.0, Width::Signed), &["9223372036854775807"]);
        check(Value::Integer(9_223_372_036_854_775_808.0, Width::Unsigned), &["9223372036854775808"]);
        check(Value::Integer(18_446_744_073_709_551_616.0, Width::Beyond), &["18446744073709551616"]);
        check(Value::Integer(-9_223_372_036_854_775_809.0, Width::Beyond), &["-9223372036854775809"]);
    }
}
