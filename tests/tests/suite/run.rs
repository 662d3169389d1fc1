//! `wasmjob run`: one attempt in one process, without a cluster.

use serde_json::Value;
use wasmjob_runtime::Blob;
use wasmjob_tests::{Machine, guest};

/// The report of a run, however it ended.
fn report(machine: &Machine, args: &[&str]) -> Value {
    machine.wasmjob(&[&["run", "--json"], args].concat()).json()
}

fn names_in(folder: &std::path::Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .map(|entries| entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
        .unwrap_or_default();
    names.sort();
    names
}

#[test]
fn the_output_goes_to_stdout_byte_for_byte_and_the_cost_to_stderr() {
    let machine = Machine::new();
    let bytes: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    let input = machine.file("input", &bytes);
    let said = machine.wasmjob(&["run", &machine.guest(&guest::cat()), "--input", &format!("@{input}")]);
    let said = said.succeeded().saying(&["succeeded in ", "fuel ", "peak memory ", "compiled in "]);
    assert!(said.out == bytes);
    assert_eq!(said.err.lines().count(), 1, "{}", said.err);
}

#[test]
fn the_report_has_every_key_of_the_contract() {
    let machine = Machine::new();
    let report = report(&machine, &[&machine.guest(&guest::says("hello"))]);
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let has = |value: &Value, wanted: &[&str]| {
        for key in wanted {
            assert!(keys(value).contains(&(*key).to_owned()), "{key} is not in {value}");
        }
    };
    has(&report, &["job", "state", "attempt", "node", "outcome", "output", "attempts", "progress", "usage", "times"]);
    has(&report["outcome"], &["kind", "limit", "message", "retryable", "exit_code"]);
    has(
        &report["usage"],
        &["fuel", "memory_bytes_peak", "wall_ms", "queue_ms", "compile_ms", "host_ms", "bytes_in", "bytes_out"],
    );
    has(&report["times"], &["submitted", "started", "finished"]);
    assert_eq!((&report["state"], &report["outcome"]["kind"]), (&"succeeded".into(), &"ok".into()));
    assert_eq!(report["output"]["text"], "hello");
    assert!(report["usage"]["fuel"].as_u64().unwrap() > 0 && report["usage"]["bytes_out"] == 5);
}

#[test]
fn the_exit_code_says_who_is_to_blame() {
    let machine = Machine::new();
    let ended = |code: i32, guest: &str| machine.wasmjob(&["run", &machine.guest(guest)]).ended(code);
    ended(0, &guest::exits(0));
    ended(1, &guest::exits(7)).saying(&["error: ", "7"]);
    ended(1, &guest::traps()).saying(&["unreachable"]);
    let hello = machine.guest(&guest::says("hello"));
    machine.wasmjob(&["run"]).ended(2);
    machine.wasmjob(&["run", &hello, "--colour", "red"]).ended(2).saying(&["--colour"]);
    machine.wasmjob(&["run", &hello, "--limit", "memory"]).ended(2).saying(&["NAME=VALUE"]);
    let mut command = machine.command(&["run", &hello]);
    let nowhere = command.env("WASMJOB_DATA", &hello).output().unwrap();
    assert_eq!(nowhere.status.code(), Some(3), "{nowhere:?}");
}

#[test]
fn arguments_and_environment_reach_the_guest_and_nothing_else_does() {
    let machine = Machine::new();
    let guest = machine.guest(&guest::says_args_and_env());
    let args = ["run", &guest, "--arg", "a b", "--arg=-x", "--env", "COLOUR=blue=green", "--", "--last", ""];
    let said = machine.wasmjob(&args).succeeded();
    assert_eq!(said.text(), "job\0a b\0-x\0--last\0\0COLOUR=blue=green\0");
}

#[test]
fn the_input_is_a_text_a_file_or_standard_input() {
    let machine = Machine::new();
    let cat = machine.guest(&guest::cat());
    let file = machine.file("some file", "from a file");
    for (input, wanted) in [("a text", "a text"), ("-x", "-x"), ("", ""), (&format!("@{file}"), "from a file")] {
        let said = machine.wasmjob(&["run", &cat, "--input", input]).succeeded();
        assert_eq!(said.text(), wanted);
    }
    let said = machine.wasmjob_reading(b"from a pipe", &["run", &cat, "--input", "-"]).succeeded();
    assert_eq!(said.text(), "from a pipe");
    assert_eq!(machine.wasmjob_reading(b"unasked", &["run", &cat]).succeeded().text(), "");
}

#[test]
fn output_that_is_no_text_is_reported_in_base64() {
    let machine = Machine::new();
    let input = machine.file("input", [0xff, 0, 0xfe]);
    let report = report(&machine, &[&machine.guest(&guest::cat()), "--input", &format!("@{input}")]);
    assert_eq!(report["output"], serde_json::json!({ "base64": "/wD+" }));
}

#[test]
fn output_over_a_mebibyte_is_reported_as_an_artifact() {
    let machine = Machine::new();
    let bytes: Vec<u8> = (0..=255).cycle().take((1 << 20) + 1).collect();
    let input = machine.file("input", &bytes);
    let report = report(&machine, &[&machine.guest(&guest::cat()), "--input", &format!("@{input}")]);
    let digest = Blob::from_bytes(bytes.into()).digest().to_string();
    assert_eq!(report["output"], serde_json::json!({ "artifact": digest }));
}

#[test]
fn nothing_is_left_behind_but_compiled_code() {
    let machine = Machine::new();
    let cat = machine.guest(&guest::cat());
    let input = machine.file("input", vec![b'x'; 700_000]);
    for guest in [&cat, &machine.guest(&guest::traps()), &machine.guest("(module)")] {
        machine.wasmjob(&["run", guest, "--input", &format!("@{input}")]);
    }
    assert_eq!(names_in(&machine.path("tmp")), [""; 0]);
    assert_eq!(names_in(&machine.path("data")), ["run"]);
    assert_eq!(names_in(&machine.path("data/run")), ["code"]);
}

#[test]
fn the_second_run_compiles_nothing() {
    let machine = Machine::new();
    let guest = machine.guest(&guest::says("hello"));
    let compile_ms = || report(&machine, &[&guest])["usage"]["compile_ms"].as_f64().unwrap();
    assert!(compile_ms() > 0.0);
    assert_eq!(compile_ms(), 0.0);
}

#[test]
fn hostile_guests_end_at_the_limit_they_reach() {
    let machine = Machine::new();
    for (name, flag, limit) in [
        ("endless-loop", "fuel=1e8", "fuel"),
        ("endless-loop", "wall=100ms", "wall"),
        ("memory-bomb", "memory=32MiB", "memory"),
        ("output-flood", "output=64KiB", "output"),
        ("deep-recursion", "fuel=1e12", "stack"),
    ] {
        let said = machine.wasmjob(&["run", "--json", &guest::example(name), "--limit", flag]).ended(1);
        let report = said.json();
        assert_eq!(report["outcome"]["kind"], "limit", "{report}");
        assert_eq!(report["outcome"]["limit"], limit, "{report}");
    }
}

#[test]
fn a_component_of_the_job_world_runs_without_a_cluster() {
    let machine = Machine::new();
    let report = report(&machine, &[&guest::example("hello"), "--input", r#"{"iterations":1}"#]);
    let output: Value = serde_json::from_str(report["output"]["text"].as_str().unwrap()).unwrap();
    assert_eq!((&output["job"], &output["iterations"]), (&report["job"], &1.into()));
}
