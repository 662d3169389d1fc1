//! What is wrong gets a clear error, the right exit code and a node that goes on.

use async_nats::{HeaderMap, header::NATS_MESSAGE_ID};
use serde_json::{Value, json};
use wasmjob_host::{
    queue::Broker,
    wire::{OutputValue, Report, State},
};
use wasmjob_runtime::{Blob, Outcome};
use wasmjob_tests::{Cluster, Machine, NatsServer, Seen, guest, until};

/// A digest that nobody has.
const NOBODY_HAS: &str = "blake3:0000000000000000000000000000000000000000000000000000000000000000";

const LANE: &str = "wj.q.default.any.p5";

fn new_id() -> String {
    wasmjob_host::wire::new_job_id().to_string()
}

/// Publishes a message to the queue the way a client of another make would.
async fn publish(broker: &Broker, message_id: Option<&str>, body: impl Into<Vec<u8>>) {
    publish_on(LANE, broker, message_id, body).await;
}

async fn publish_on(lane: &str, broker: &Broker, message_id: Option<&str>, body: impl Into<Vec<u8>>) {
    let mut headers = HeaderMap::new();
    if let Some(id) = message_id {
        headers.insert(NATS_MESSAGE_ID, id);
    }
    let body = bytes::Bytes::from(body.into());
    let sent = broker.jetstream.publish_with_headers(lane.to_owned(), headers, body).await.unwrap().await.unwrap();
    assert!(!sent.duplicate, "the server dropped it");
}

/// A pushed component that prints `hello`.
fn hello(cluster: &Cluster) -> String {
    let path = cluster.guest(&guest::says("hello"));
    cluster.wasmjob(&["push", &path]).succeeded().text().trim().to_owned()
}

/// A spec with these fields besides those it must have.
fn spec(id: &str, component: &str, more: &Value) -> String {
    let mut spec = json!({ "v": 1, "id": id, "component": component });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec.to_string()
}

/// Checks that the node still takes and runs jobs.
#[track_caller]
fn goes_on(cluster: &Cluster) {
    let said = cluster.wasmjob(&["submit", "--wait", &cluster.guest(&guest::says("still here"))]).succeeded();
    assert_eq!(said.text(), "still here");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_no_job_is_kept_as_dead_under_its_message_id_with_the_reason() {
    let cluster = Cluster::shared();
    let broker = cluster.connect().await;
    let deep = format!(r#"{{"input":{{"inline":{}}}}}"#, "[".repeat(100_000));
    let own = new_id();
    for (body, reason) in [
        (&b"{"[..], "not a job spec"),
        (b"", "not a job spec"),
        (b"[1]", "not a job spec"),
        (&[0xff, 0xfe], "not a job spec"),
        (deep.as_bytes(), "recursion"),
        (br#"{"v":1}"#, "missing field"),
        (spec(&own, "x", &json!({ "v": 2 })).as_bytes(), "`v`"),
        (spec("../../etc/passwd", "x", &json!({})).as_bytes(), "not a job id"),
        (spec(&own, "x", &json!({ "colour": "red" })).as_bytes(), "colour"),
        (spec(&own, "x", &json!({ "queue": "other" })).as_bytes(), "`wj.q.other.any.p5`"),
        (spec(&own, "x", &json!({ "limits": { "fuel": -1 } })).as_bytes(), "-1"),
        (spec(&own, "x", &json!({ "result_ttl_ms": 1 })).as_bytes(), "result_ttl_ms"),
        (spec(&own, "x", &json!({ "result_ttl_ms": u64::MAX })).as_bytes(), "result_ttl_ms"),
        (spec(&own, "x", &json!({ "retry": { "max": 300 } })).as_bytes(), "300"),
        (spec(&own, "x", &json!({ "env": { "A=B": "1" } })).as_bytes(), "A=B"),
        (spec(&own, "x", &json!({ "args": ["a".repeat(200_000)] })).as_bytes(), "200000 bytes"),
        (&[b' '; 600 * 1024], "bytes, more than"),
    ] {
        let job = new_id();
        publish(&broker, Some(&format!("{job}:1")), body).await;
        let report = cluster.until_state(&job, "dead");
        assert_eq!(report["outcome"]["kind"], "invalid", "{report}");
        let message = report["outcome"]["message"].as_str().unwrap();
        assert!(message.contains(reason), "{reason}: {message}");
        cluster.wasmjob(&["result", &job]).ended(1).saying(&[reason]);
    }
    goes_on(cluster);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_beside_the_lanes_is_kept_as_dead_and_not_for_ever_in_the_queue() {
    let cluster = Cluster::shared();
    let broker = cluster.connect().await;
    for lane in ["wj.q.default.gpu.p5", "wj.q.default.a/b.p5", "wj.q.default.any.p9", "wj.q.default.any.x"] {
        let job = new_id();
        publish_on(lane, &broker, Some(&format!("{job}:1")), spec(&job, NOBODY_HAS, &json!({}))).await;
        let report = cluster.until_state(&job, "dead");
        assert!(report["outcome"]["message"].as_str().unwrap().contains(lane), "{report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn words_that_are_no_class_take_the_place_of_none() {
    let cluster = Cluster::up();
    let broker = cluster.connect().await;
    let jobs: Vec<String> = (0..70).map(|_| new_id()).collect();
    for (number, job) in jobs.iter().enumerate() {
        let lane = format!("wj.q.default.word{number}.p5");
        publish_on(&lane, &broker, Some(&format!("{job}:1")), spec(job, NOBODY_HAS, &json!({}))).await;
    }
    let os = format!("os={}", std::env::consts::OS);
    let guest = cluster.guest(&guest::says("hello"));
    cluster.wasmjob(&["submit", "--wait", "--label", &os, &guest]).succeeded();
    for job in &jobs {
        cluster.until_state(job, "dead");
    }
    cluster.wasmjob(&["submit", "--wait", "--label", &os, &guest]).succeeded();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_no_job_and_has_no_usable_id_is_kept_under_a_new_one() {
    let cluster = Cluster::up();
    let broker = cluster.connect().await;
    let seen = Seen::listen(&broker).await;
    publish(&broker, None, "no job").await;
    publish(&broker, Some("no id"), "no job").await;
    let ended = cluster.json(&["submit", "--wait", &cluster.guest(&guest::says("hello"))]);
    let ended = ended["job"].as_str().unwrap();
    // An id that belongs to a job is not taken from it.
    publish(&broker, Some(&format!("{ended}:99")), "no job").await;
    until("three messages were put aside", || (seen.jobs().len() == 4).then_some(()));
    let dead = cluster.json(&["ps", "--state", "dead"]);
    assert_eq!(dead.as_array().unwrap().len(), 3, "{dead}");
    assert_eq!(cluster.json(&["result", ended])["output"]["text"], "hello");
    assert_eq!(seen.ends(ended), ["succeeded"]);
    assert_eq!(cluster.metric("n1", r#"wasmjob_dead_lettered_total{queue="default"}"#), 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_over_its_limit_is_not_even_fetched() {
    let cluster = Cluster::shared();
    let broker = cluster.connect().await;
    let file = cluster.file("large", vec![7; 1 << 20]);
    let digest = cluster.wasmjob(&["artifact", "put", &file]).succeeded().text().trim().to_owned();
    let (job, more) = (new_id(), json!({ "input": { "artifact": digest }, "limits": { "input": 1000 } }));
    publish(&broker, Some(&format!("{job}:1")), spec(&job, &hello(cluster), &more)).await;
    let report = cluster.until_state(&job, "failed");
    assert_eq!((&report["outcome"]["kind"], &report["outcome"]["limit"]), (&"limit".into(), &"input".into()));
    let message = report["outcome"]["message"].as_str().unwrap();
    assert!(message.contains("1048576") && message.contains("1000"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_cannot_be_run_fails_with_the_reason() {
    let cluster = Cluster::shared();
    let broker = cluster.connect().await;
    let hello = hello(cluster);
    for (component, more, reason) in [
        (NOBODY_HAS, json!({}), NOBODY_HAS),
        ("nobody-pushed-this", json!({}), "nobody-pushed-this"),
        (&hello, json!({ "input": { "artifact": NOBODY_HAS } }), NOBODY_HAS),
        (&hello, json!({ "limits": { "disk": 1 } }), "there is no limit `disk`"),
        (&hello, json!({ "limits": { "fuel": u64::MAX } }), "18446744073709551615"),
    ] {
        let job = new_id();
        publish(&broker, Some(&format!("{job}:1")), spec(&job, component, &more)).await;
        let report = cluster.until_state(&job, "failed");
        assert_eq!((&report["outcome"]["kind"], &report["outcome"]["retryable"]), (&"invalid".into(), &false.into()));
        let message = report["outcome"]["message"].as_str().unwrap();
        assert!(message.contains(reason), "{reason}: {message}");
    }
    goes_on(cluster);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_nothing_end_the_job_at_that_limit() {
    let cluster = Cluster::shared();
    let broker = cluster.connect().await;
    let spins = cluster.wasmjob(&["push", &cluster.guest(&guest::spins())]).succeeded().text().trim().to_owned();
    let hello = hello(cluster);
    for (name, component) in [("fuel", &spins), ("memory", &spins), ("wall", &spins), ("output", &hello)] {
        let job = new_id();
        let limits = json!({ "limits": { name: 0 } });
        publish(&broker, Some(&format!("{job}:1")), spec(&job, component, &limits)).await;
        let report = cluster.until_state(&job, "failed");
        assert_eq!(report["outcome"]["limit"], name, "{report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_told_when_its_soft_limit_has_passed_and_stopped_only_by_itself() {
    let cluster = Cluster::shared();
    let broker = cluster.connect().await;
    let example = cluster.wasmjob(&["push", &guest::example("hello")]).succeeded().text().trim().to_owned();
    let job = new_id();
    publish(&broker, Some(&format!("{job}:1")), spec(&job, &example, &json!({ "soft_ms": 0 }))).await;
    let report = cluster.until_state(&job, "failed");
    assert_eq!(report["outcome"]["kind"], "error", "{report}");
    assert_eq!(report["outcome"]["message"], "told to stop after 0 of 1000000 iterations");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_published_twice_runs_once() {
    let cluster = Cluster::shared();
    let broker = cluster.connect().await;
    let seen = Seen::listen(&broker).await;
    let (job, hello) = (new_id(), hello(cluster));
    // Under different message ids, so that it is not the server that sees the duplicate.
    for attempt in 1..=3 {
        publish(&broker, Some(&format!("{job}:{attempt}")), spec(&job, &hello, &json!({}))).await;
    }
    let redelivered = cluster.until_state(&job, "succeeded");
    assert_eq!(redelivered["attempt"], 1);
    goes_on(cluster);
    assert_eq!(seen.ends(&job), ["succeeded"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_another_client_wrote_holds_no_node_up() {
    let cluster = Cluster::up_with(&["--slots", "1"]);
    let broker = cluster.connect().await;
    let hello = hello(&cluster);
    let report =
        |job: &str, state: &str, attempt: u32| json!({ "job": job, "state": state, "attempt": attempt }).to_string();
    for (event, wanted) in [
        // Whoever ends a job first has ended it.
        (report("JOB", "cancelled", 0), "cancelled"),
        (report("JOB", "running", 7), "succeeded"),
        (report("JOB", "running", u32::MAX), "succeeded"),
        // What says nothing about this job counts for nothing.
        (report(&new_id(), "succeeded", 1), "succeeded"),
        ("garbage".to_owned(), "succeeded"),
        (String::new(), "succeeded"),
    ] {
        let job = new_id();
        let event = event.replace("JOB", &job);
        broker.jetstream.publish(format!("wj.ev.{job}"), event.into()).await.unwrap().await.unwrap();
        publish(&broker, Some(&format!("{job}:1")), spec(&job, &hello, &json!({}))).await;
        goes_on(&cluster);
        let stored = cluster.until_state(&job, wanted);
        assert_eq!(stored["job"], job.as_str());
    }
}

#[test]
fn what_is_not_a_job_component_is_refused_with_a_report() {
    let cluster = Cluster::shared();
    let text = cluster.file("text.wasm", "#!/bin/sh\n");
    let empty = cluster.file("empty.wasm", "");
    for (path, reason) in [
        (text, "does not begin with"),
        (empty, "empty"),
        (cluster.guest("(module (memory 1))"), "`_start`"),
        (cluster.guest(guest::WANTS_HTTP), "--grant http=HOST"),
        (cluster.guest(guest::WANTS_HTTP), "`wasi:http/types@0.2.3`"),
        (cluster.guest("(component)"), "exports nothing"),
    ] {
        for args in [&["run", &path][..], &["submit", "--wait", &path]] {
            cluster.wasmjob(args).ended(1).saying(&[reason]);
            let report = cluster.wasmjob(&[args, &["--json"]].concat()).ended(1).json();
            assert_eq!((&report["state"], &report["outcome"]["kind"]), (&"failed".into(), &"invalid".into()));
        }
    }
    goes_on(cluster);
}

#[test]
fn wrong_usage_names_what_is_wrong_and_submits_nothing() {
    let cluster = Cluster::shared();
    let hello = cluster.guest(&guest::says("hello"));
    let folder = cluster.path("tmp").display().to_string();
    let cases: &[(&[&str], &[&str])] = &[
        (&["missing.wasm"], &["missing.wasm", "hint: "]),
        (&["nobody-pushed-this"], &["nobody-pushed-this", "hint: "]),
        (&[&folder], &["folder"]),
        (&[&hello, "--input", "@/no/such/file"], &["/no/such/file"]),
        (&[&hello, "--limit", "disk=1"], &["`disk`", "fuel, memory, wall"]),
        (&[&hello, "--limit", "memory=lots"], &["memory", "lots"]),
        (&[&hello, "--limit", "fuel=0"], &["fuel", "more than 0"]),
        (&[&hello, "--limit", "memory=8GiB"], &["8GiB", "4GiB"]),
        (&[&hello, "--limit", "wall=30h"], &["above", "limits.max"]),
        (&[&hello, "--limit", "input=4", "--input", "12345"], &["5B", "4B", "--limit input"]),
        (&[&hello, "--env", "A"], &["NAME=VALUE"]),
    ];
    for (args, texts) in cases {
        cluster.wasmjob(&[&["submit"], *args].concat()).ended(2).saying(texts);
        let error = cluster.wasmjob(&[&["submit", "--json"], *args].concat()).ended(2);
        assert!(error.out.is_empty());
        let told: Value = serde_json::from_str(&error.err).unwrap();
        assert!(!told["error"].as_str().unwrap().is_empty(), "{told}");
        let run = cluster.wasmjob(&[&["run"], *args].concat());
        // Alone, an input over its limit has a report: there the job is all there is.
        assert!(matches!(run.code, Some(1 | 2)), "{run:?}");
    }
    let only_submit: &[(&[&str], &[&str])] = &[
        (&[NOBODY_HAS], &[NOBODY_HAS, "wasmjob push"]),
        (&[&hello, "--queue", "nobody-works-on-this"], &["nobody-works-on-this"]),
        (&[&hello, "--queue", "No Queue"], &["`No Queue`"]),
        (&[&hello, "--keep", "1s"], &["--keep 1s", "at least 1m"]),
        (&[&hello, "--keep", "100000d"], &["--keep", "ten years"]),
        (&[&hello, "--repeat", "0"], &["0"]),
    ];
    for (args, texts) in only_submit {
        cluster.wasmjob(&[&["submit"], *args].concat()).ended(2).saying(texts);
    }
    for args in [&["get", "x"][..], &["result", "x"], &["logs", "x"], &["artifact", "get", "blake3:00"]] {
        cluster.wasmjob(args).ended(2);
    }
    let no_wasm = cluster.file("notes.txt", "no component");
    cluster.wasmjob(&["push", &no_wasm]).ended(2).saying(&["notes.txt is no WebAssembly"]);
    cluster.wasmjob(&["schedule", "add", "x", &no_wasm, "--every", "1h"]).ended(2).saying(&["is no WebAssembly"]);
    for args in [&["get", "01arz3ndektsv4rrffq69g5fav"][..], &["result", "01arz3ndektsv4rrffq69g5fav"]] {
        cluster.wasmjob(args).ended(2).saying(&["nobody knows job", "hint: "]);
    }
}

#[tokio::test]
async fn an_event_that_fills_a_message_is_told_in_outline() {
    let broker = Cluster::shared().connect().await;
    let job = wasmjob_host::wire::new_job_id();
    let full = Report {
        state: State::Failed,
        attempt: 3,
        outcome: Some(Outcome::invalid("why")),
        output: Some(OutputValue::Text("x".repeat(9 << 20))),
        ..Report::queued(job)
    };
    broker.store(&full, 0).await.unwrap();
    let stored = broker.event(job).await.unwrap().unwrap().report;
    assert_eq!((stored.state, stored.attempt, &stored.outcome), (full.state, full.attempt, &full.outcome));
    assert_eq!(stored.output, None);
}

#[test]
fn a_wrong_configuration_names_the_key_and_where_it_is() {
    let machine = Machine::new();
    let config = machine.file("config.toml", "[node]\nslots = 2\ncolour = \"red\"\n");
    machine.wasmjob(&["config", "--config", &config]).ended(2).saying(&["colour", &config, "hint: "]);
    machine.wasmjob(&["config", "--config", "/no/such/file"]).ended(2).saying(&["/no/such/file"]);
    let limits = machine.file("limits.toml", "[limits.max]\nstack = \"1GiB\"\n");
    machine.wasmjob(&["config", "--config", &limits]).ended(2).saying(&["limits.max.stack is 1GiB", "16MiB"]);
    let limits = machine.file("limits.toml", "[limits.max]\ncompile_time = \"soon\"\n");
    machine.wasmjob(&["config", "--config", &limits]).ended(2).saying(&["limits.max.compile_time", &limits, "soon"]);
    let misspelt = machine.command(&["config"]).env("WASMJOB_NODE_SLOT", "3").output().unwrap();
    assert_eq!(misspelt.status.code(), Some(2), "{misspelt:?}");
}

#[test]
fn without_a_server_every_command_says_how_to_start_one() {
    let machine = Machine::new();
    let hello = machine.guest(&guest::says("hello"));
    for args in [
        &["submit", &hello][..],
        &["push", &hello],
        &["ps"],
        &["status"],
        &["nodes", "ls"],
        &["artifact", "ls"],
        &["get", "01arz3ndektsv4rrffq69g5fav"],
        &["cancel", "01arz3ndektsv4rrffq69g5fav"],
        &["node"],
    ] {
        machine.wasmjob(args).ended(3).saying(&["error: ", "hint: ", "wasmjob up"]);
        machine
            .wasmjob(&[args, &["--nats", "nats://127.0.0.1:1"]].concat())
            .ended(3)
            .saying(&["127.0.0.1:1", "hint: "]);
    }
    let error = machine.wasmjob(&["ps", "--json"]).ended(3);
    assert!(serde_json::from_str::<Value>(&error.err).unwrap()["hint"].is_string());
}

#[test]
fn wrong_credentials_are_refused_and_said_to_be_wrong() {
    let cluster = Cluster::shared();
    let url = cluster.endpoint().url;
    // A good key that nobody here knows.
    let stranger = cluster.file("stranger.nk", "SUAAAAICAMCAKBQHBAEQUCYMBUHA6EARCIJRIFIWC4MBSGQ3DQOR4H776Y");
    let nothing = cluster.file("nothing.creds", "no credentials");
    cluster.wasmjob(&["ps", "--nats", &url]).ended(3).saying(&["refused the credentials", "--creds"]);
    cluster.wasmjob(&["ps", "--nats", &url, "--creds", &stranger]).ended(3).saying(&["refused the credentials"]);
    cluster.wasmjob(&["ps", "--nats", &url, "--creds", &nothing]).ended(2).saying(&["nothing.creds", "hint: "]);
    cluster.wasmjob(&["ps", "--nats", &url, "--creds", "/no/such/file"]).ended(2).saying(&["/no/such/file"]);
    cluster.wasmjob(&["ps", "--join", "/no/such/file"]).ended(2).saying(&["/no/such/file"]);
}

#[test]
fn a_node_works_on_a_server_that_somebody_else_runs() {
    let (server, machine) = (NatsServer::start(), Machine::new());
    let args = ["node", "--nats", server.url(), "--name", "n1", "--http", "127.0.0.1:0"];
    let mut node = wasmjob_tests::Process::start(&machine.command(&args));
    node.until_it_says("is ready");
    let hello = machine.guest(&guest::says("hello"));
    let said = machine.wasmjob(&["submit", "--wait", &hello, "--nats", server.url()]).succeeded();
    assert_eq!(said.text(), "hello");
}

#[test]
fn the_bytes_of_a_component_are_those_of_its_digest() {
    let cluster = Cluster::shared();
    let content = wat::parse_str(guest::says("exactly this")).unwrap();
    let path = cluster.file("exactly.wasm", &content);
    let digest = cluster.wasmjob(&["push", &path]).succeeded().text().trim().to_owned();
    assert_eq!(digest, Blob::from_bytes(content.into()).digest().to_string());
}
