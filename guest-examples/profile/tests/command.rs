//! The job as it runs on the machine it is built on: a CSV in, JSON or an error out.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

fn profile(csv: &[u8], name: &str) -> Output {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.csv"));
    fs::write(&path, csv).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_profile"));
    command.stdin(File::open(&path).unwrap()).output().unwrap()
}

fn statistics(csv: &[u8], name: &str) -> Value {
    let output = profile(csv, name);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn check_refused(csv: &[u8], name: &str, expected: &str) {
    let output = profile(csv, name);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stderr), format!("error: {expected}\n"));
}

#[test]
fn the_penguins_are_described_as_pandas_does() {
    let found = statistics(include_bytes!("../data/penguins.csv"), "penguins");
    let expected: Value = serde_json::from_str(include_str!("penguins_describe.json")).unwrap();
    assert_eq!(found["rows"], expected["rows"]);
    let columns = |value: &Value| value["columns"].as_array().unwrap().clone();
    assert_eq!(columns(&found).len(), columns(&expected).len());
    for (found, expected) in columns(&found).iter().zip(columns(&expected)) {
        for (key, expected) in expected.as_object().unwrap() {
            match expected.as_f64() {
                None => assert_eq!(&found[key], expected),
                Some(expected) => {
                    let found = found[key].as_f64().unwrap();
                    assert!((found - expected).abs() <= 1e-9 * expected.abs(), "{key}: {found}, not {expected}");
                }
            }
        }
    }
}

#[test]
fn one_value_has_no_deviation_and_none_has_nothing() {
    let csv = b"\xef\xbb\xbfone,none,text\r\n4,NA,\"a\r\nb\"\r\n,,c\r\n";
    let expected = r#"{"rows":2,"columns":[
        {"name":"one","count":1,"mean":4.0,"std":null,"min":4.0,"p25":4.0,"p50":4.0,"p75":4.0,"max":4.0},
        {"name":"none","count":0,"mean":null,"std":null,"min":null,"p25":null,"p50":null,"p75":null,"max":null}
    ]}"#;
    assert_eq!(statistics(csv, "one"), serde_json::from_str::<Value>(expected).unwrap());
}

#[test]
fn infinities_are_told_as_text() {
    let found = statistics(b"a\ninf\n1\n-1\n", "infinity");
    assert_eq!(found["columns"][0]["max"], "inf");
    assert_eq!(found["columns"][0]["std"], Value::Null);
}

#[test]
fn text_and_odd_bytes_are_no_numbers_and_no_trouble() {
    let long = [b"a,b\n1,".as_slice(), &b"9".repeat(100_000), b"\n2,\xff\n"].concat();
    let found = statistics(&long, "long");
    assert_eq!(found["columns"].as_array().unwrap().len(), 1);
    assert_eq!(found["columns"][0]["max"], 2.0);
}

#[test]
fn a_header_alone_has_no_rows_and_no_types() {
    assert_eq!(statistics(b"a,b", "header").to_string(), r#"{"columns":[],"rows":0}"#);
}

#[test]
fn a_short_row_lacks_values_and_a_blank_line_is_none() {
    let found = statistics(b"a,b\n1\n\n  \n3,4\n", "short");
    assert_eq!(found["rows"], 2);
    assert_eq!(found["columns"][1]["count"], 1);
}

#[test]
fn a_csv_that_is_none_is_refused_with_its_line() {
    check_refused(b"", "empty", "the CSV is empty: there is not even a header");
    check_refused(b"\n\n", "blank", "the CSV is empty: there is not even a header");
    let ragged = "line 3: more than 2 fields, which is what the header has";
    check_refused(b"a,b\n1,2\n1,2,3\n1,2\n", "ragged", ragged);
    check_refused(b"a,b\r\n1,2\r\n1,2,3\r\n", "ragged-crlf", ragged);
    check_refused(b"a,b\n1,2\n1,2,", "ragged-end", ragged);
    let unclosed = "line 2: a quoted field starts here and never ends";
    check_refused(b"a,b\n1,\"x\n2,3\n", "unclosed", unclosed);
    check_refused(b"a,b\r\n\"1,x\r\n2,3", "unclosed-crlf", unclosed);
    // As long as what is kept of a field, and a little around that.
    for length in 4095..4100 {
        let csv = [b"a,b\n1,\"".as_slice(), &b"x".repeat(length)].concat();
        check_refused(&csv, "unclosed-long", unclosed);
    }
    let wide = vec!["a"; 10_001].join(",");
    check_refused(wide.as_bytes(), "wide", "line 1: more than 10000 columns");
    let name = format!("a,{}\n1,2\n", "b".repeat(5000));
    check_refused(name.as_bytes(), "name", "the name of column 2 is longer than 4096 bytes");
}
