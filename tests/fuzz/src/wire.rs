//! Texts that come over the wire, from a command line or from a file: what is read is written so that it
//! reads the same.

use std::path::PathBuf;

use wasmjob_host::config::{Config, Layers};
use wasmjob_host::limit_values;
use wasmjob_host::queue::names;
use wasmjob_host::units::{Size, Span};
use wasmjob_host::wire::{JobId, JobSpec, LimitTable, Report};
use wasmjob_runtime::limits::CHOOSABLE;
use wasmjob_runtime::{Digest, Limits};

/// Reads `data`, after a first byte that says as what; panics if what was read is not stable.
pub fn run(data: &[u8]) {
    let Some((what, rest)) = data.split_first() else { return };
    let text = std::str::from_utf8(rest).unwrap_or_default();
    match what % 8 {
        0 => spec(rest),
        1 => report(rest),
        2 => limit(text),
        3 => size(text),
        4 => span(text),
        5 => ids(text),
        6 => config_file(rest),
        _ => environment(text),
    }
}

fn spec(message: &[u8]) {
    // Whatever it is, the job it is about can be looked for.
    let named = names::job_of(None, message);
    let Ok(spec) = JobSpec::parse(message) else { return };
    assert_eq!(named, Some(spec.id));
    let again = JobSpec::parse(&spec.to_message()).expect("a spec reads its own message");
    assert_eq!(again, spec);
    assert_eq!(again.input.bytes(), spec.input.bytes());
    let (defaults, maximum) = (Limits::default(), Limits::maximum_default());
    if let Ok(limits) = spec.limits.resolve(&defaults, &maximum) {
        assert!(limits.first_above(&maximum).is_none());
        assert_eq!(LimitTable::of(&limits).resolve(&defaults, &maximum), Ok(limits));
    }
    let _ = spec.id.submitted();
    let queued = Report { spec: Some(spec.clone().into()), ..Report::queued(spec.id) };
    assert_eq!(Report::parse(&queued.to_event()).expect("a report reads its own event"), queued);
}

fn report(event: &[u8]) {
    let Ok(report) = Report::parse(event) else { return };
    let again = Report::parse(&report.to_event()).expect("a report reads its own event");
    assert_eq!(again, report);
    let _ = report.output.as_ref().and_then(wasmjob_host::wire::OutputValue::bytes);
}

fn limit(text: &str) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    let Ok(table) = limit_values::table(&[(name.to_owned(), value.to_owned())]) else { return };
    for (name, value) in &table.0 {
        let info = CHOOSABLE.iter().find(|info| info.name == name).expect("a limit there is");
        assert!(*value > 0, "{name}");
        let shown = info.show(*value);
        let again = limit_values::table(&[(name.to_string(), shown.clone())]);
        assert_eq!(again.as_ref(), Ok(&table), "{name}={shown}");
    }
}

fn size(text: &str) {
    let Ok(Size(bytes)) = text.parse() else { return };
    let Size(shown) = Size(bytes).to_string().parse().expect("a size reads what it writes");
    // One decimal is shown, always rounded down.
    assert!(shown <= bytes && bytes - shown <= bytes / 10, "{text}: {bytes}, shown as {shown}");
}

fn span(text: &str) {
    let Ok(Span(time)) = text.parse() else { return };
    let Span(shown) = Span(time).to_string().parse().expect("a duration reads what it writes");
    // The two largest units are shown.
    assert!(shown <= time && time - shown <= time / 24, "{text}: {time:?}, shown as {shown:?}");
}

fn ids(text: &str) {
    if let Ok(id) = text.parse::<JobId>() {
        assert_eq!(id.to_string(), text);
        let _ = Report::queued(id).to_event();
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
    if let Ok(digest) = Digest::from_hex(text) {
        assert_eq!(digest.to_string(), format!("blake3:{text}"));
    }
    if wasmjob_host::names::is_name(text) {
        assert!(!text.contains(['/', ' ', '*', '>']) && !text.is_empty());
    }
    let _ = wasmjob_host::config::is_node_name(text);
}

fn config_file(text: &[u8]) {
    let file = tempfile::NamedTempFile::new().expect("there is a temporary folder");
    std::fs::write(file.path(), text).expect("it can be written");
    read_config(&Layers { file: Some(PathBuf::from(file.path())), env: nowhere(), flags: Vec::new() });
}

/// Lines `NAME=VALUE`, as an environment.
fn environment(text: &str) {
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let given = pairs.map(|(name, value)| (format!("WASMJOB_{name}"), value.to_owned()));
    read_config(&Layers { file: None, env: nowhere().into_iter().chain(given).collect(), flags: Vec::new() });
}

fn nowhere() -> Vec<(String, String)> {
    vec![("WASMJOB_DATA".to_owned(), "/nonexistent".to_owned())]
}

fn read_config(layers: &Layers) {
    match Config::load(layers) {
        Ok(config) => {
            let _ = limit_values::limits(&config).map_err(|error| error.to_string());
            let _ = (config.rows(), config.to_json());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
