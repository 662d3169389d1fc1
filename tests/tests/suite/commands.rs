//! The commands that work with a cluster, against a running `wasmjob up`.

use std::collections::HashSet;

use futures_util::StreamExt;
use rustix::process::Signal;
use serde_json::{Value, json};
use wasmjob_host::queue::names;
use wasmjob_runtime::Blob;
use wasmjob_tests::{Cluster, Machine, guest, send, until};

/// Bytes that are no text and nowhere the same.
fn bytes(length: u32) -> Vec<u8> {
    (0..length).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[test]
fn a_job_that_is_waited_for_answers_like_one_that_is_run() {
    let cluster = Cluster::shared();
    let cat = cluster.guest(&guest::cat());
    let said = cluster.wasmjob(&["submit", "--wait", &cat, "--input", "hello"]).succeeded();
    assert_eq!(said.out, b"hello");
    said.saying(&["succeeded on n1 in "]);
    let report = cluster.json(&["submit", "--wait", &cat, "--input", "hello"]);
    assert_eq!((&report["state"], &report["node"], &report["attempt"]), (&"succeeded".into(), &"n1".into(), &1.into()));
    assert_eq!(report["output"], json!({ "text": "hello" }));
    let failed = cluster.wasmjob(&["submit", "--wait", "--json", &cluster.guest(&guest::exits(7))]).ended(1);
    assert_eq!(failed.json()["outcome"]["exit_code"], 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_attempt_that_takes_long_is_announced() {
    let cluster = Cluster::shared();
    let broker = cluster.connect().await;
    // Two writes and the announcement between them, if there is one.
    for (ms, events) in [(0, vec!["succeeded"]), (400, vec!["running", "succeeded"])] {
        let mut seen = broker.client.subscribe(names::SEEN_ALL).await.unwrap();
        broker.client.flush().await.unwrap();
        let job = cluster.json(&["submit", "--wait", &cluster.guest(&guest::sleeps_ms(ms))])["job"].clone();
        let mut states = Vec::new();
        while states.last().is_none_or(|state| state != "succeeded") {
            let event: Value = serde_json::from_slice(&seen.next().await.unwrap().payload).unwrap();
            states.extend((event["job"] == job).then(|| event["state"].as_str().unwrap().to_owned()));
        }
        assert_eq!(states, events);
    }
}

#[test]
fn a_submitted_job_is_found_by_its_id() {
    let cluster = Cluster::shared();
    let job = cluster.submit(&[&cluster.guest(&guest::cat()), "--input", "hello", "--env", "A=B", "--", "arg"]);
    assert_eq!(cluster.wasmjob(&["result", "--wait", &job]).succeeded().out, b"hello");
    assert_eq!(cluster.json(&["result", &job])["output"]["text"], "hello");
    let report = cluster.json(&["get", &job]);
    assert_eq!((&report["job"], &report["state"]), (&job.as_str().into(), &"succeeded".into()));
    let spec = &report["spec"];
    assert_eq!((&spec["args"], &spec["env"], &spec["priority"]), (&json!(["arg"]), &json!({ "A": "B" }), &5.into()));
    assert!(cluster.wasmjob(&["get", &job]).succeeded().text().contains("succeeded"));
    let listed = |jobs: &Value| jobs.as_array().unwrap().iter().any(|other| other["job"] == job.as_str());
    assert!(listed(&cluster.json(&["ps", "--max", "1000"])));
    assert!(listed(&cluster.json(&["ps", "--max", "1000", "--state", "succeeded"])));
    assert!(!listed(&cluster.json(&["ps", "--max", "1000", "--state", "failed"])));
    assert!(cluster.wasmjob(&["ps", "--max", "1000"]).succeeded().text().contains(&job));
    assert_eq!(cluster.json(&["submit", &cluster.guest(&guest::exits(0))])["job"].as_str().unwrap().len(), 26);
}

#[test]
fn whoever_stops_waiting_is_told_that_the_job_goes_on() {
    let cluster = Cluster::up();
    let waiting = cluster.start(&["submit", "--wait", &cluster.guest(&guest::sleeps_ms(60_000))]);
    let running = || cluster.json(&["ps", "--state", "running"]).as_array().unwrap().first().cloned();
    let job = until("the job runs", running)["job"].as_str().unwrap().to_owned();
    send(waiting.pid(), Signal::INT);
    let cancel = format!("wasmjob cancel {job}");
    waiting.finish().ended(130).saying(&["goes on", &cancel]);
    assert_eq!(cluster.json(&["get", &job])["state"], "running");
    cluster.wasmjob(&["cancel", &job]).succeeded();
}

#[test]
fn a_job_that_has_not_ended_has_no_result_yet() {
    let cluster = Cluster::shared();
    let job = cluster.submit(&[&cluster.guest(&guest::sleeps_ms(60_000))]);
    cluster.wasmjob(&["result", &job]).ended(1).saying(&["no result yet", "--wait"]);
    cluster.wasmjob(&["cancel", &job]).succeeded();
    cluster.wasmjob(&["result", &job]).ended(1).saying(&["was cancelled"]);
}

#[test]
fn one_job_can_be_submitted_twenty_times() {
    let cluster = Cluster::shared();
    let reports = cluster.json(&["submit", "--wait", "--repeat", "20", &guest::example("hello")]);
    let jobs: HashSet<_> = reports.as_array().unwrap().iter().map(|report| report["job"].to_string()).collect();
    assert_eq!(jobs.len(), 20);
    assert!(reports.as_array().unwrap().iter().all(|report| report["state"] == "succeeded"), "{reports}");
    let said = cluster.wasmjob(&["submit", "--wait", "--repeat", "20", &guest::example("hello")]).succeeded();
    assert_eq!(said.text().lines().filter(|line| line.contains("4500339045783072515")).count(), 20);
    said.saying(&["20 jobs in ", "succeeded 20", "jobs per node: n1 20"]);
}

#[test]
fn large_inputs_and_outputs_become_artifacts_and_arrive_whole() {
    let cluster = Cluster::shared();
    let cat = cluster.guest(&guest::cat());
    for length in [64 * 1024, 64 * 1024 + 1, 3_000_000] {
        let input = bytes(length);
        let digest = Blob::from_bytes(input.clone().into()).digest().to_string();
        let file = cluster.file(&format!("input-{length}"), &input);
        let job = cluster.submit(&[&cat, "--input", &format!("@{file}")]);
        assert!(cluster.wasmjob(&["result", "--wait", &job]).succeeded().out == input, "{length} bytes");
        let report = cluster.json(&["get", &job]);
        let large = length > 64 * 1024;
        assert_eq!(report["spec"]["input"]["artifact"] == digest.as_str(), large, "{length}");
        assert_eq!(report["output"]["artifact"] == digest.as_str(), large, "{length}");
        assert_eq!((&report["usage"]["bytes_in"], &report["usage"]["bytes_out"]), (&length.into(), &length.into()));
    }
}

#[test]
fn artifacts_are_put_listed_fetched_and_removed() {
    let cluster = Cluster::shared();
    let content = bytes(300_000);
    let file = cluster.file("an artifact", &content);
    let digest = cluster.wasmjob(&["artifact", "put", &file]).succeeded().text().trim().to_owned();
    assert_eq!(digest, Blob::from_bytes(content.clone().into()).digest().to_string());
    let again = cluster.wasmjob_reading(&content, &["artifact", "put", "-", "--json"]).succeeded().json();
    assert_eq!(again, json!({ "digest": digest, "size": content.len() }));
    let listed = || {
        let list = cluster.json(&["artifact", "ls"]);
        list.as_array().unwrap().iter().any(|entry| entry["digest"] == digest && entry["size"] == content.len())
    };
    assert!(listed());
    assert!(cluster.wasmjob(&["artifact", "get", &digest]).succeeded().out == content);
    let fetched = cluster.path("fetched").display().to_string();
    cluster.wasmjob(&["artifact", "get", &digest, "--output", &fetched]).succeeded();
    assert!(std::fs::read(&fetched).unwrap() == content);
    cluster.wasmjob(&["artifact", "rm", &digest]).succeeded();
    assert!(!listed());
    cluster.wasmjob(&["artifact", "get", &digest, "--output", &fetched]).ended(2).saying(&[&digest]);
    assert!(std::fs::read(&fetched).unwrap() == content, "a failed fetch leaves what was there");
}

#[test]
fn a_pushed_component_runs_by_digest_and_by_name_and_the_name_can_move() {
    let cluster = Cluster::shared();
    let (one, two) = (cluster.guest(&guest::says("one")), cluster.guest(&guest::says("two")));
    let output = |component: &str| {
        let said = cluster.wasmjob(&["submit", "--wait", component]).succeeded();
        said.text().to_owned()
    };
    let digest = cluster.wasmjob(&["push", "--name", "number", &one]).succeeded().text().trim().to_owned();
    assert_eq!((output(&digest), output("number")), ("one".to_owned(), "one".to_owned()));
    assert_eq!(cluster.json(&["push", "--name", "number", &two])["name"], "number");
    assert_eq!(output("number"), "two");
}

#[test]
fn logs_show_what_there_is_and_follow_what_comes() {
    let cluster = Cluster::shared();
    let job = cluster.submit(&[&cluster.guest(&guest::ticks_ms(1_500))]);
    let (text, json) = (cluster.start(&["logs", "-f", &job]), cluster.start(&["logs", "-f", &job, "--json"]));
    until("the first line is there", || {
        (cluster.wasmjob(&["logs", &job]).succeeded().text() == "tick\n").then_some(())
    });
    assert_eq!(text.finish().succeeded().text(), "tick\ntock\n");
    let lines = json.finish().succeeded();
    let lines: Vec<Value> = lines.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0], json!({ "stream": "stderr", "attempt": 1, "text": "tick\n" }));
    assert_eq!(cluster.json(&["logs", &job]), Value::from(lines));
}

#[test]
fn status_and_nodes_tell_what_there_is() {
    let cluster = Cluster::shared();
    let status = cluster.json(&["status"]);
    assert_eq!((&status["slots"], &status["queues"][0]["queue"]), (&8.into(), &"default".into()));
    assert!(cluster.wasmjob(&["status"]).succeeded().text().contains("1 node"));
    let node = cluster.node("n1");
    assert_eq!((&node["state"], &node["slots"], &node["queues"]), (&"ready".into(), &8.into(), &json!(["default"])));
    assert!(cluster.children().contains(&u32::try_from(node["pid"].as_u64().unwrap()).unwrap()));
    assert_eq!(cluster.json(&["nodes", "inspect", "n1"])["pid"], node["pid"]);
    assert!(cluster.wasmjob(&["nodes", "ls"]).succeeded().text().contains("n1"));
    cluster.wasmjob(&["nodes", "inspect", "n2"]).ended(2).saying(&["n2"]);
    let config = cluster.json(&["config"]);
    assert!(config.to_string().contains("queue.lease"), "{config}");
    assert!(cluster.wasmjob(&["config"]).succeeded().text().contains("WASMJOB_QUEUE_LEASE"));
}

#[test]
fn status_shows_slots_as_they_are_now() {
    let cluster = Cluster::up();
    let job = cluster.submit(&[&cluster.guest(&guest::sleeps_ms(3_600_000))]);
    cluster.until_state(&job, "running");
    assert_eq!(cluster.json(&["status"])["slots_used"], 1);
    assert_eq!(cluster.node("n1")["running"], 1);
}

#[test]
fn a_running_job_is_cancelled_while_it_spins() {
    let cluster = Cluster::shared();
    let job = cluster.submit(&[&cluster.guest(&guest::spins()), "--limit", "fuel=1e15", "--limit", "wall=12h"]);
    cluster.until_state(&job, "running");
    cluster.wasmjob(&["cancel", &job]).succeeded().saying(&[&job, "cancelled"]);
    let report = cluster.json(&["get", &job]);
    assert_eq!((&report["state"], &report["outcome"]["kind"]), (&"cancelled".into(), &"cancelled".into()));
}

#[test]
fn a_running_job_is_cancelled_in_the_middle_of_one_long_instruction() {
    let cluster = Cluster::shared();
    let guest = cluster.guest(&guest::fills());
    let job = cluster.submit(&[&guest, "--limit", "fuel=1e15", "--limit", "wall=12h", "--limit", "memory=512MiB"]);
    cluster.until_state(&job, "running");
    assert_eq!(cluster.json(&["cancel", &job]), json!([{ "job": job, "state": "cancelled" }]));
    assert_eq!(cluster.json(&["get", &job])["state"], "cancelled");
}

#[test]
fn a_cancel_that_comes_too_late_or_for_nobody_says_so() {
    let cluster = Cluster::shared();
    let job = cluster.json(&["submit", "--wait", &cluster.guest(&guest::exits(0))])["job"].as_str().unwrap().to_owned();
    cluster.wasmjob(&["cancel", &job]).ended(1).saying(&["had ended already: succeeded"]);
    assert_eq!(cluster.json(&["get", &job])["state"], "succeeded");
    cluster.wasmjob(&["cancel", "01arz3ndektsv4rrffq69g5fav"]).ended(2).saying(&["nobody knows job"]);
    cluster.wasmjob(&["cancel", "all"]).ended(2).saying(&["not a job id"]);
}

#[test]
fn guests_of_every_kind_run_on_a_node() {
    let cluster = Cluster::shared();
    let run = |name: &str, input: &str| {
        let said = cluster.wasmjob(&["submit", "--wait", &guest::example(name), "--input", input]).succeeded();
        said.text().to_owned()
    };
    let profile: Value = serde_json::from_str(&run("profile", "a,b\n1,x\n3,y\n")).unwrap();
    assert_eq!(profile["rows"], 2, "{profile}");
    assert!(run("wordcount", "one two two").contains("two"));
    for (name, flag, limit) in [("memory-bomb", "memory=32MiB", "memory"), ("endless-loop", "wall=100ms", "wall")] {
        let args = ["submit", "--wait", "--json", &guest::example(name), "--limit", flag];
        let report = cluster.wasmjob(&args).ended(1).json();
        assert_eq!((&report["state"], &report["outcome"]["limit"]), (&"failed".into(), &limit.into()));
    }
}

#[test]
fn a_node_answers_for_its_health_and_counts_its_jobs() {
    let cluster = Cluster::shared();
    for path in ["/healthz", "/readyz"] {
        let (status, body) = cluster.http("n1", path);
        assert_eq!(status, 200, "{body}");
        assert!(serde_json::from_str::<Value>(&body).unwrap().is_object());
    }
    let succeeded = r#"wasmjob_jobs_finished_total{queue="default",state="succeeded"}"#;
    let before = cluster.metric("n1", succeeded);
    cluster.wasmjob(&["submit", "--wait", &cluster.guest(&guest::exits(0))]).succeeded();
    assert!(cluster.metric("n1", succeeded) > before);
    assert_eq!(cluster.metric("n1", "wasmjob_slots"), 8.0);
    assert!(cluster.metric("n1", r#"wasmjob_queue_seconds_count{queue="default"}"#) > 0.0);
}

#[test]
fn standard_output_carries_data_only() {
    let cluster = Cluster::shared();
    let guest = cluster.guest(&guest::cat());
    let said = cluster.wasmjob(&["submit", "--wait", &guest]).succeeded();
    assert_eq!(said.text(), "");
    assert!(!said.err.contains('\r') && !said.err.contains('\u{1b}'), "progress is for terminals: {:?}", said.err);
    for command in ["run", "up", "node", "push", "submit", "get", "result", "logs", "ps", "cancel", "status", "config"]
    {
        let help = cluster.wasmjob(&[command, "--help"]).succeeded();
        assert!(help.text().contains("Usage: wasmjob"), "{command}");
    }
}

#[test]
fn a_benchmark_measures_both_sides_and_leaves_nothing() {
    let machine = Machine::new();
    let results = machine.json(&["bench", "--jobs", "100", "--singles", "10", "--slots", "2"]);
    for number in ["jobs_per_s", "floor_per_s", "ratio"] {
        assert!(results["noop"][number].as_f64().unwrap() > 0.0, "{results}");
    }
    for number in ["p50_us", "p99_us", "floor_p50_us"] {
        assert!(results["single"][number].as_f64().unwrap() > 0.0, "{results}");
    }
    assert!(results["idle"]["rss_bytes"].as_u64().unwrap() > 1 << 20, "{results}");
    assert!(machine.json(&["config"])["values"]["nats.url"]["value"].is_null());
    machine.wasmjob(&["bench", "--jobs", "1"]).ended(2).saying(&["100..=100000"]);
}

#[test]
fn the_component_of_the_benchmark_is_its_text() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../host/src/cli/bench/noop");
    let bytes = std::fs::read(format!("{folder}.wasm")).unwrap();
    assert_eq!(bytes, wat::parse_file(format!("{folder}.wat")).unwrap());
}
