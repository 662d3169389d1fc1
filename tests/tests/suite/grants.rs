//! What jobs may reach on a cluster: folders that nodes offer, secrets, names, children; and that they
//! reach nothing else.

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt,
};

use serde_json::{Value, json};
use wasmjob_tests::{Cluster, Machine, guest};

/// A machine whose node offers the folder `data`, to read and write if `write`.
fn offering(name: &str, write: bool) -> Machine {
    let machine = Machine::new();
    let folder = machine.path(name);
    fs::create_dir_all(folder.join("in")).unwrap();
    fs::write(folder.join("in/a.txt"), "some text\n").unwrap();
    let mode = if write { "rw" } else { "ro" };
    let config = format!("[grants.fs]\n{name} = \"{}:{mode}\"\n", folder.display());
    machine.file("wasmjob.toml", &config);
    machine
}

fn offering_cluster(write: bool) -> Cluster {
    let machine = offering("shelf", write);
    let config = machine.path("wasmjob.toml").display().to_string();
    Cluster::up_on(machine, &["--config", &config])
}

#[test]
fn a_job_reads_a_folder_that_its_node_offers_by_name_or_path() {
    let cluster = offering_cluster(false);
    let conform = guest::example("filer");
    let path = cluster.path("shelf/in").display().to_string();
    for host in ["shelf/in".to_owned(), path] {
        let grant = format!("fs={host}::/in:ro");
        let said = cluster.wasmjob(&["submit", "--wait", "--grant", &grant, &conform, "--", "read", "/in/a.txt"]);
        assert_eq!(said.succeeded().text(), "some text\n");
    }
    let wrote = ["submit", "--wait", "--grant", "fs=shelf::/in:ro", &conform, "--", "write", "/in/b.txt"];
    cluster.wasmjob(&wrote).ended(1);
    assert!(!cluster.path("shelf/b.txt").exists());
}

#[test]
fn what_no_node_offers_is_said_at_submit() {
    let cluster = offering_cluster(false);
    let filer = guest::example("filer");
    let submit = |grant: &str| cluster.wasmjob(&["submit", "--grant", grant, &filer]);
    submit("fs=/etc:ro").ended(2).saying(&["no node offers a folder that /etc is in", "grants.fs"]);
    submit("fs=../etc:ro").ended(2).saying(&["NAME or NAME/PATH"]);
    submit("fs=/etc").ended(2).saying(&[":ro", ":rw", "scratch=BYTES"]);
    submit("disk=1").ended(2).saying(&["no grant `disk`", "fs=HOST"]);
    submit("scratch=2GiB").ended(2).saying(&["scratch=2147483648", "1GiB", "grants.scratch"]);
    submit("jobs=1001").ended(2).saying(&["jobs=1001", "1000", "grants.jobs"]);
    submit("clock=real").ended(2).saying(&["clock=real", "coarse", "grants.clock"]);
    let more = cluster.wasmjob(&["submit", "--wait", "--grant", "fs=shelf::/in:rw", &filer, "--", "list", "/in"]);
    more.ended(1).saying(&["offered to read only"]);
    let out = cluster.wasmjob(&["submit", "--wait", "--grant", "fs=shelf/../..::/in:ro", &filer, "--", "list", "/in"]);
    out.ended(1).saying(&["cannot be given"]);
}

#[test]
fn a_node_that_does_not_offer_a_folder_is_not_given_the_job() {
    let cluster = Cluster::up_with(&["--listen", "127.0.0.1"]);
    let filer = guest::example("filer");
    let submit = ["submit", "--grant", "fs=shelf::/in:ro", &filer, "--", "read", "/in/in/a.txt"];
    let said = cluster.wasmjob(&submit).succeeded().saying(&["warning", "fs=shelf"]);
    let job = said.text().trim().to_owned();
    // Other jobs pass it by.
    cluster.wasmjob(&["submit", "--wait", &cluster.guest(&guest::says("hello"))]).succeeded();
    assert_eq!(cluster.json(&["get", &job])["state"], "queued");
    let machine = offering("shelf", false);
    let config = machine.path("wasmjob.toml").display().to_string();
    let _node = cluster.join("n2", &["--config", &config]);
    let report = cluster.until_state(&job, "succeeded");
    assert_eq!((&report["node"], &report["attempt"]), (&"n2".into(), &1.into()));
    assert_eq!(report["output"]["text"], "some text\n");
}

#[test]
fn a_job_goes_to_a_node_that_has_its_labels() {
    let cluster = Cluster::up_with(&["--listen", "127.0.0.1"]);
    let guest = cluster.guest(&guest::says("hello"));
    let said = cluster.wasmjob(&["submit", "--label", "room=attic", &guest]).succeeded().saying(&["room=attic"]);
    let job = said.text().trim().to_owned();
    let machine = Machine::new();
    let config = machine.file("wasmjob.toml", "[node]\nlabels = [\"room=attic\"]\n");
    let _node = cluster.join("n2", &["--config", &config]);
    assert_eq!(cluster.until_state(&job, "succeeded")["node"], "n2");
    let os = format!("os={}", std::env::consts::OS);
    cluster.wasmjob(&["submit", "--wait", "--label", &os, &guest]).succeeded();
    cluster.wasmjob(&["submit", "--label", "a b=c", &guest]).ended(2).saying(&["no label"]);
    let two = ["submit", "--label", "room=attic", "--label", "room=cellar", &guest];
    cluster.wasmjob(&two).ended(2).saying(&["room=attic", "room=cellar", "cannot both be met"]);
}

fn granted(cluster: &Cluster, flags: &[&str], orders: &Value) -> Value {
    let (example, input) = (guest::example("granted"), orders.to_string());
    let config = cluster.path("wasmjob.toml").display().to_string();
    let submit = [&["submit", "--wait", "--json", "--config", &config], flags, &["--input", &input, &example]].concat();
    cluster.wasmjob(&submit).json()
}

/// A cluster whose jobs may set names that begin with `shop.`.
fn naming_cluster() -> Cluster {
    let machine = Machine::new();
    let config = machine.file("wasmjob.toml", "[grants]\nartifacts = [\":ro\", \"shop.:rw\"]\n");
    Cluster::up_on(machine, &["--config", &config])
}

#[test]
fn a_secret_reaches_the_guest_and_nothing_else() {
    let cluster = naming_cluster();
    cluster.wasmjob_reading(b"hush-hush-42\n", &["secret", "set", "token"]).succeeded();
    assert_eq!(cluster.json(&["secret", "ls"]), json!(["token"]));
    let report = granted(&cluster, &ALL, &json!({ "secrets": ["token"] }));
    assert_eq!(report["output"]["text"], r#"{"children":[],"names":[],"secrets":[12]}"#);
    let job = report["job"].as_str().unwrap();
    for args in [&["get", job, "--json"][..], &["logs", job], &["config"], &["nodes", "inspect", "n1"]] {
        assert!(!cluster.wasmjob(args).succeeded().text().contains("hush"), "{args:?}");
    }
    assert!(!cluster.node_log().contains("hush"));
    let other = granted(&cluster, &ALL, &json!({ "secrets": ["other"] }));
    let message = other["outcome"]["message"].as_str().unwrap();
    assert!(message.contains("--secret other"), "{message}");
    // Without any, the import alone is refused, before anything runs.
    let none = granted(&cluster, &ALL[..4], &json!({ "secrets": ["token"] }));
    let message = none["outcome"]["message"].as_str().unwrap();
    assert!(message.contains("wasmjob:job/secrets") && message.contains("--secret NAME"), "{message}");
    assert_eq!((&none["outcome"]["kind"], &none["usage"]["fuel"]), (&"invalid".into(), &0.into()));
    cluster.wasmjob(&["submit", "--secret", "a/b", &guest::example("granted")]).ended(2).saying(&["a/b"]);
    cluster.wasmjob(&["secret", "rm", "token"]).succeeded();
    cluster.wasmjob(&["secret", "rm", "token"]).ended(2).saying(&["not kept"]);
    cluster.wasmjob_reading(b"", &["secret", "set", "x"]).ended(2).saying(&["empty"]);
}

/// All that `granted` imports.
const ALL: [&str; 6] = ["--grant", "artifacts=shop.:rw", "--grant", "jobs=2", "--secret", "token"];

#[test]
fn names_are_read_and_set_below_the_prefix_that_was_granted() {
    let cluster = naming_cluster();
    cluster.wasmjob_reading(b"x", &["secret", "set", "token"]).succeeded();
    let orders = json!({ "set": ["shop.latest", "weights"], "get": ["shop.latest"] });
    let report = granted(&cluster, &ALL, &orders);
    assert_eq!(report["output"]["text"], r#"{"children":[],"names":["weights"],"secrets":[]}"#, "{report}");
    let other = granted(&cluster, &ALL, &json!({ "get": ["store.latest"] }));
    assert!(other["outcome"]["message"].as_str().unwrap().contains("artifacts=store.latest:ro"), "{other}");
    let config = cluster.path("wasmjob.toml").display().to_string();
    let wide = ["submit", "--grant", "artifacts=:rw", "--config", &config, &guest::example("granted")];
    cluster.wasmjob(&wide).ended(2).saying(&["artifacts=:rw", "not offered"]);
    let read_only = ["--grant", "artifacts=shop.:ro", "--grant", "jobs=2", "--secret", "token"];
    let set = granted(&cluster, &read_only, &orders);
    assert!(set["outcome"]["message"].as_str().unwrap().contains("artifacts=shop.latest:rw"), "{set}");
}

#[test]
fn a_job_starts_others_up_to_its_grant_and_none_twice() {
    let cluster = naming_cluster();
    cluster.wasmjob_reading(b"x", &["secret", "set", "token"]).succeeded();
    let child =
        json!({ "grants": ["artifacts=shop.:ro", "jobs=0"], "secrets": ["token"], "input": { "inline": "null" } });
    let report = granted(&cluster, &ALL, &json!({ "children": [child, child] }));
    let output: Value = serde_json::from_str(report["output"]["text"].as_str().unwrap()).unwrap();
    let children: Vec<&str> = output["children"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
    assert_eq!(children.len(), 2);
    for child in &children {
        let ended = cluster.until_state(child, "succeeded");
        assert_eq!(ended["spec"]["parent"], report["job"]);
    }
    let three = granted(&cluster, &ALL, &json!({ "children": [child, child, child] }));
    assert!(three["outcome"]["message"].as_str().unwrap().contains("2"), "{three}");
    let more = granted(&cluster, &ALL, &json!({ "children": [{ "grants": ["artifacts=:rw"] }] }));
    assert!(more["outcome"]["message"].as_str().unwrap().contains("more than this job has"), "{more}");
}

#[test]
fn run_grants_what_its_caller_names() {
    let machine = offering("shelf", true);
    let filer = guest::example("filer");
    let folder = machine.path("shelf").display().to_string();
    let grant = format!("fs={folder}::/s:rw");
    machine.wasmjob(&["run", "--grant", &grant, &filer, "--", "write", "/s/b.txt"]).succeeded();
    assert!(machine.path("shelf/b.txt").exists());
    machine.wasmjob(&["run", &filer, "--", "read", "/s/b.txt"]).ended(1);
    machine.wasmjob(&["run", "--grant", "fs=/does/not/exist:ro", &filer]).ended(2).saying(&["no folder"]);
    machine.wasmjob(&["run", "--secret", "none", &filer]).ended(2).saying(&["secret set none"]);
    let scratch = ["run", "--grant", "scratch=1MiB", &filer, "--", "write", "/scratch/x"];
    machine.wasmjob(&scratch).succeeded();
    machine.wasmjob(&["run", "--grant", "jobs=1", "--deterministic", &filer]).ended(2).saying(&["deterministic"]);
}

#[test]
fn a_deterministic_job_does_the_same_in_every_run_and_with_any_number_of_slots() {
    let clockwork = guest::example("clockwork");
    let run = |cluster: &Cluster, seed: &str| {
        let flag = format!("--deterministic={seed}");
        let report = cluster.json(&["submit", "--wait", &flag, "--input", "sleep a b c d e f", &clockwork]);
        (report["output"]["text"].as_str().unwrap().to_owned(), report["usage"]["fuel"].clone())
    };
    let (one, two) = (Cluster::up_with(&["--slots", "1"]), Cluster::up_with(&["--slots", "4"]));
    let first = run(&one, "7");
    assert_eq!(first, run(&one, "7"));
    assert_eq!(first, run(&two, "7"));
    assert_ne!(first.0, run(&two, "8").0);
    let here = two.json(&["run", "--deterministic=7", "--input", "sleep a b c d e f", &clockwork]);
    assert_eq!(first, (here["output"]["text"].as_str().unwrap().to_owned(), here["usage"]["fuel"].clone()));
    assert!(first.0.contains("slept 3600."), "{}", first.0);
}

#[test]
fn what_a_killed_node_left_in_its_folder_is_gone_when_it_starts_again() {
    let machine = Machine::new();
    let left = machine.path("data/tmp/n1/scratch-left");
    DirBuilder::new().recursive(true).mode(0o700).create(&left).unwrap();
    fs::write(left.join("file"), "of a job").unwrap();
    let cluster = Cluster::up_on(machine, &[]);
    assert!(!left.exists());
    cluster.wasmjob(&["submit", "--wait", &cluster.guest(&guest::says("hello"))]).succeeded();
}

#[test]
fn a_wrong_target_in_the_configuration_is_said_at_once() {
    let machine = Machine::new();
    let config = machine.file("wasmjob.toml", "[grants]\nnet = [\"https://example.com\"]\n");
    machine.wasmjob(&["config", "--config", &config]).ended(2).saying(&["grants.net", "wasmjob.toml:2", "no URL"]);
}
