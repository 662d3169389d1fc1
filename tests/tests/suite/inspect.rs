//! `wasmjob inspect`: what is in a component, what it needs and who signed it.

use serde_json::{Value, json};
use wasmjob_tests::{Cluster, Machine, guest};

/// What is printed about a file, which could run.
#[track_caller]
fn inspected(machine: &Machine, file: &str) -> Value {
    machine.json(&["inspect", file])
}

/// A command that imports this.
fn importing(interface: &str) -> String {
    format!(
        r#"(component
            (import "{interface}" (instance (export "x" (func))))
            (core module $m (func (export "run") (result i32) (i32.const 0)))
            (core instance $i (instantiate $m))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $e (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $e)))"#
    )
}

#[test]
fn the_kinds_of_job_are_told_apart_without_a_cluster() {
    let machine = Machine::new();
    let module = machine.guest(&guest::says("hello"));
    for (file, kind) in [
        (guest::example("hello"), "job"),
        (machine.guest(&importing("wasi:cli/exit@0.2.0")), "command"),
        (module, "module"),
    ] {
        let found = inspected(&machine, &file);
        assert_eq!((&found["kind"], &found["runs"], &found["problem"]), (&kind.into(), &true.into(), &Value::Null));
        assert_eq!(found["digest"], wasmjob_runtime::Digest::of(&std::fs::read(&file).unwrap()).to_string());
        assert_eq!(found["size"], std::fs::metadata(&file).unwrap().len());
        assert!(found["core"]["functions"].as_u64().unwrap() > 0 && found["core"]["code_bytes"].as_u64().unwrap() > 0);
        assert_eq!(found["signatures"], json!([]));
    }
    assert!(!machine.path("data").exists(), "nothing is kept of it");
}

#[test]
fn what_a_component_of_the_sdk_says_of_itself_is_shown() {
    let machine = Machine::new();
    let said = machine.wasmjob(&["inspect", &guest::example("hello")]).succeeded();
    for part in [
        "job: it exports `run`",
        "wit-bindgen-rust",
        "3 modules",
        "memory",
        "pages",
        "wasmjob:job/context@0.1.0",
        "signature",
    ] {
        assert!(said.text().contains(part), "{part}: {}", said.text());
    }
    let found = inspected(&machine, &guest::example("hello"));
    assert!(found["exports"].as_array().unwrap().contains(&json!({ "name": "run", "kind": "func" })), "{found}");
    assert!(
        found["producers"].as_array().unwrap().iter().any(|producer| producer["name"] == "wit-bindgen-rust"),
        "{found}"
    );
    assert!(found["core"]["memories"][0]["pages_min"].as_u64().unwrap() > 0, "{found}");
}

#[test]
fn each_import_is_shown_with_the_flag_it_needs() {
    let machine = Machine::new();
    for (interface, needs, flag) in [
        ("wasi:random/random@0.2.0", "nothing", None),
        ("wasi:filesystem/types@0.2.3", "optional", Some("--grant fs=FOLDER:ro|rw")),
        ("wasi:sockets/tcp@0.2.3", "optional", Some("--grant net=HOST:PORT")),
        ("wasi:http/types@0.2.3", "grant", Some("--grant http=HOST")),
        ("wasmjob:job/jobs@0.1.0", "grant", Some("--grant jobs=N")),
        ("wasmjob:job/names@0.1.0", "grant", Some("--grant artifacts=PREFIX:ro|rw")),
        ("wasmjob:job/secrets@0.1.0", "grant", Some("--secret NAME")),
    ] {
        let file = machine.guest(&importing(interface));
        let found = inspected(&machine, &file);
        assert_eq!(found["imports"], json!([{ "name": interface, "needs": needs, "flag": flag }]));
        if let Some(flag) = flag {
            assert!(machine.wasmjob(&["inspect", &file]).succeeded().text().contains(flag));
        }
    }
    let found = machine.wasmjob(&["inspect", "--json", &machine.guest(&importing("acme:thing/api@1.0.0"))]).ended(1);
    let found = found.json();
    assert_eq!((&found["runs"], &found["imports"][0]["needs"]), (&false.into(), &"unavailable".into()));
    assert!(found["problem"].as_str().unwrap().contains("`acme:thing/api@1.0.0`"), "{found}");
}

#[test]
fn what_cannot_run_ends_with_one_and_the_reason() {
    let machine = Machine::new();
    let wrong_run = r#"(component
        (core module $m (func (export "run") (result i32) i32.const 1))
        (core instance $i (instantiate $m))
        (func (export "run") (result u32) (canon lift (core func $i "run"))))"#;
    let whole = wat::parse_str(guest::says("hello")).unwrap();
    for (file, reason) in [
        (machine.file("empty", ""), "it is empty"),
        (machine.file("text", "(module)"), "text format"),
        (machine.file("cut", &whole[..whole.len() / 2]), "not valid"),
        (machine.guest("(module)"), "`_start`"),
        (machine.guest("(component)"), "exports nothing"),
        (machine.guest("(component (core module (memory i64 1)))"), "not valid"),
        (machine.guest(wrong_run), "wrong type"),
    ] {
        let found = machine.wasmjob(&["inspect", "--json", &file]).ended(1).json();
        assert_eq!(found["runs"], false, "{found}");
        assert!(found["problem"].as_str().unwrap().contains(reason), "{reason}: {found}");
        assert!(machine.wasmjob(&["inspect", &file]).ended(1).text().contains(reason));
    }
    machine.wasmjob(&["inspect", "nowhere.wasm"]).ended(2).saying(&["nowhere.wasm"]);
    machine.wasmjob(&["inspect"]).ended(2);
}

#[test]
fn signatures_are_shown_with_what_they_are_worth() {
    let machine = Machine::new();
    let hello = machine.guest(&guest::says("hello"));
    let public = machine.wasmjob(&["key", "new"]).succeeded().text().trim().to_owned();
    machine.wasmjob(&["sign", &hello]).succeeded();
    let signed = hello.replace(".wasm", ".signed.wasm");
    let state = |file: &str, code| machine.wasmjob(&["inspect", "--json", file]).ended(code).json();
    assert_eq!(state(&signed, 0)["signatures"], json!([{ "key": public, "valid": true, "trusted": null }]));
    machine.file("data/config.toml", format!("trusted_keys = [{public:?}]\n"));
    assert_eq!(state(&signed, 0)["signatures"], json!([{ "key": public, "valid": true, "trusted": true }]));
    assert!(state(&hello, 1)["problem"].as_str().unwrap().contains("unsigned"));
    let mut changed = std::fs::read(&signed).unwrap();
    *changed.last_mut().unwrap() ^= 1;
    let found = state(&machine.file("changed.wasm", &changed), 1);
    assert_eq!(found["signatures"][0]["valid"], false, "{found}");
    let found = state(&machine.file("cut.wasm", &changed[..changed.len() - 1]), 1);
    assert!(found["signature_problem"].as_str().unwrap().contains("byte"), "{found}");
}

#[test]
fn a_stored_component_is_shown_by_its_digest_and_its_name() {
    let cluster = Cluster::shared();
    let file = cluster.guest(&guest::says("inspected"));
    let digest = cluster.wasmjob(&["push", "--name", "inspected", &file]).succeeded().text().trim().to_owned();
    let wanted = inspected(cluster, &file);
    assert_eq!(wanted["digest"], digest.as_str());
    assert_eq!(inspected(cluster, &digest), wanted);
    assert_eq!(inspected(cluster, "inspected"), wanted);
    let nobody_has = format!("blake3:{}", "0".repeat(64));
    cluster.wasmjob(&["inspect", &nobody_has]).ended(2).saying(&["wasmjob push"]);
    cluster.wasmjob(&["inspect", "never-pushed"]).ended(2).saying(&["never-pushed"]);
}
