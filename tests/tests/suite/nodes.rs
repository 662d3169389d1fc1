//! What `wasmjob up` and nodes promise: how they start and end, and what they never exceed.

use rustix::process::Signal;
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};
use wasmjob_host::wire::{JobSpec, new_job_id};
use wasmjob_runtime::Blob;
use wasmjob_tests::{Cluster, Machine, guest, until};

/// How long the jobs sleep that are counted below.
const SLEEP_MS: u32 = 200;

/// The most jobs that slept at the same time, by their reports. A job gives up its slot and its
/// memory before its end is reported, so what counts is how long it slept at least.
fn most_at_once(reports: &Value) -> usize {
    let start = |report: &Value| OffsetDateTime::parse(report["times"]["started"].as_str().unwrap(), &Rfc3339).unwrap();
    let starts: Vec<_> = reports.as_array().unwrap().iter().map(start).collect();
    let sleep = Duration::milliseconds(SLEEP_MS.into());
    let asleep_at = |at: OffsetDateTime| starts.iter().filter(|start| **start <= at && at < **start + sleep).count();
    starts.iter().map(|at| asleep_at(*at)).max().unwrap()
}

fn is_gone(pid: u32) -> Option<()> {
    (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(())
}

#[test]
fn a_second_up_on_one_folder_says_so_and_leaves_the_first_alone() {
    let cluster = Cluster::shared();
    let said = cluster.wasmjob(&["up", "--http", "127.0.0.1:0"]).ended(2);
    said.saying(&["error: ", "hint: "]);
    cluster.wasmjob(&["submit", "--wait", &cluster.guest(&guest::exits(0))]).succeeded();
}

#[test]
fn a_second_node_of_one_name_says_so() {
    let cluster = Cluster::shared();
    let join = cluster.path("data/credentials/n1.join").display().to_string();
    let said = cluster.wasmjob(&["node", "--join", &join, "--http", "127.0.0.1:0"]).ended(2);
    said.saying(&["a node called `n1` is running already", "--name"]);
}

#[test]
fn up_drains_on_a_signal_and_takes_everything_with_it() {
    for signal in [Signal::INT, Signal::TERM] {
        let mut cluster = Cluster::up();
        let guest = cluster.guest(&guest::sleeps_ms(1_000));
        let waiting = cluster.start(&["submit", "--wait", &guest]);
        let job = until("the job runs", || {
            let running = cluster.json(&["ps", "--state", "running"]);
            running[0]["job"].as_str().map(str::to_owned)
        });
        let children = cluster.children();
        assert_eq!(children.len(), 2, "a server and a node");
        cluster.process().signal(signal);
        assert_eq!(waiting.finish().succeeded().out, b"slept");
        assert_eq!(cluster.process().until_it_ends(), 0);
        for pid in children {
            until("no child survives", || is_gone(pid));
        }
        cluster.wasmjob(&["get", &job]).ended(3).saying(&["hint: start one with `wasmjob up`"]);
        cluster.up_again();
        assert_eq!(cluster.json(&["get", &job])["state"], "succeeded", "results outlive `up`");
    }
}

#[test]
fn a_second_signal_hands_back_what_runs() {
    let mut cluster = Cluster::up();
    let job = cluster.submit(&[&cluster.guest(&guest::sleeps_ms(3_000))]);
    cluster.until_state(&job, "running");
    cluster.process().signal(Signal::INT);
    cluster.process().until_it_says("draining");
    cluster.process().signal(Signal::INT);
    assert_eq!(cluster.process().until_it_ends(), 0);
    cluster.up_again();
    let report = cluster.until_state(&job, "succeeded");
    assert_eq!(report["attempt"], 2, "{report}");
}

#[test]
fn a_node_never_runs_more_jobs_than_it_has_slots() {
    let cluster = Cluster::up_with(&["--slots", "3"]);
    let guest = cluster.guest(&guest::sleeps_ms(SLEEP_MS));
    let reports = cluster.json(&["submit", "--wait", "--repeat", "12", "--limit", "memory=1MiB", &guest]);
    assert_eq!(most_at_once(&reports), 3);
}

#[test]
fn a_node_never_promises_more_memory_than_it_has() {
    let cluster = Cluster::up_with(&["--memory", "256MiB"]);
    let guest = cluster.guest(&guest::sleeps_ms(SLEEP_MS));
    let reports = cluster.json(&["submit", "--wait", "--repeat", "8", "--limit", "memory=128MiB", &guest]);
    assert_eq!(most_at_once(&reports), 2);
    assert!(reports.as_array().unwrap().iter().all(|report| report["attempt"] == 1), "{reports}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_too_large_for_every_node_is_refused_or_fails_with_both_numbers() {
    let cluster = Cluster::up_with(&["--memory", "256MiB"]);
    let guest = guest::exits(0);
    let path = cluster.guest(&guest);
    let said = cluster.wasmjob(&["submit", &path, "--limit", "memory=300MiB"]).ended(2);
    said.saying(&["300MiB", "256MiB", "hint: "]);
    assert_eq!(cluster.json(&["ps"]), json!([]));
    cluster.wasmjob(&["push", &path]).succeeded();
    let digest = Blob::from_bytes(wat::parse_str(&guest).unwrap().into()).digest().to_string();
    let job = "01arz3ndektsv4rrffq69g5fav";
    let limits = json!({ "memory": 300 << 20 });
    let spec = json!({ "v": 1, "id": job, "component": digest, "limits": limits });
    let broker = cluster.connect().await;
    broker.jetstream.publish("wj.q.default.any.p5", spec.to_string().into()).await.unwrap().await.unwrap();
    let report = cluster.until_state(job, "failed");
    assert_eq!((&report["outcome"]["kind"], &report["outcome"]["limit"]), (&"limit".into(), &"memory".into()));
    let message = report["outcome"]["message"].as_str().unwrap();
    assert!(message.contains(&(300 << 20).to_string()) && message.contains(&(256 << 20).to_string()), "{message}");
}

#[test]
fn a_job_that_waits_for_a_slot_is_cancelled_at_once_and_never_runs() {
    let cluster = Cluster::up_with(&["--slots", "1"]);
    let (spins, ticks) = (cluster.guest(&guest::spins()), cluster.guest(&guest::ticks_ms(0)));
    let first = cluster.submit(&[&spins, "--limit", "fuel=1e15"]);
    cluster.until_state(&first, "running");
    let second = cluster.submit(&[&ticks]);
    assert_eq!(cluster.json(&["get", &second])["state"], "queued");
    cluster.wasmjob(&["cancel", &second]).succeeded();
    assert_eq!(cluster.json(&["get", &second])["state"], "cancelled");
    cluster.wasmjob(&["cancel", &first]).succeeded();
    // Jobs of one lane come in order: after this one, the cancelled one has come and gone.
    cluster.wasmjob(&["submit", "--wait", &ticks]).succeeded();
    let report = cluster.json(&["get", &second]);
    assert_eq!((&report["state"], &report["attempt"]), (&"cancelled".into(), &0.into()));
    assert_eq!(cluster.json(&["logs", &second]), json!([]));
}

#[test]
fn a_job_whose_node_is_gone_and_that_nobody_takes_up_can_be_cancelled() {
    let cluster = Cluster::up_with(&["--slots", "1"]);
    let job = cluster.submit(&[&cluster.guest(&guest::sleeps_ms(60_000))]);
    cluster.until_state(&job, "running");
    cluster.wasmjob(&["queue", "pause", "default"]).succeeded();
    let pid = cluster.node("n1")["pid"].clone();
    cluster.kill(u32::try_from(pid.as_u64().unwrap()).unwrap());
    until("the node is there again", || (cluster.node("n1")["pid"] != pid).then_some(()));
    cluster.wasmjob(&["cancel", &job]).succeeded();
    let report = cluster.until_state(&job, "cancelled");
    assert_eq!(report["attempts"][0]["outcome"]["kind"], "lost", "{report}");
    let queue = cluster.json(&["queue", "ls"]);
    assert_eq!((&queue[0]["waiting"], &queue[0]["running"]), (&0.into(), &0.into()), "{queue}");
}

#[test]
fn a_job_that_waits_for_memory_is_cancelled_without_running() {
    let cluster = Cluster::up_with(&["--memory", "128MiB"]);
    let args = ["--limit", "memory=128MiB", "--limit", "fuel=1e15"];
    let first = cluster.submit(&[&[cluster.guest(&guest::spins()).as_str()], &args[..]].concat());
    cluster.until_state(&first, "running");
    let second = cluster.submit(&[&[cluster.guest(&guest::ticks_ms(0)).as_str()], &args[..]].concat());
    cluster.wasmjob(&["cancel", &second]).succeeded();
    assert_eq!(cluster.json(&["get", &second])["state"], "cancelled");
    cluster.wasmjob(&["cancel", &first]).succeeded();
    assert_eq!(cluster.json(&["logs", &second]), json!([]));
}

#[test]
fn a_second_machine_joins_with_one_file_and_runs_what_the_first_pushed() {
    let cluster = Cluster::up_with(&["--listen", "127.0.0.1", "--slots", "1"]);
    cluster.wasmjob(&["push", "--name", "sleeps", &cluster.guest(&guest::sleeps_ms(300))]).succeeded();
    let node = cluster.join("n2", &["--slots", "1"]);
    let reports = cluster.json(&["submit", "--wait", "--repeat", "6", "--limit", "memory=1MiB", "sleeps"]);
    for name in ["n1", "n2"] {
        assert!(reports.as_array().unwrap().iter().any(|report| report["node"] == name), "{name}: {reports}");
    }
    // The joined machine reaches the cluster with the same file.
    let join = cluster.path("n2.join").display().to_string();
    assert_eq!(node.machine.json(&["nodes", "ls", "--join", &join]).as_array().unwrap().len(), 2);
    cluster.wasmjob(&["nodes", "invite", "n3", "--output", &join]).ended(2).saying(&["exists already"]);
}

#[test]
fn a_node_that_is_alone_on_loopback_invites_nobody() {
    let cluster = Cluster::shared();
    cluster.wasmjob(&["nodes", "invite", "n2"]).ended(3).saying(&["--listen"]);
}

#[test]
fn logs_in_json_are_json_and_name_the_job_and_its_trace() {
    let machine = Machine::new();
    let config = machine.file("config.toml", "[log]\nformat = \"json\"\n");
    let cluster = Cluster::up_on(machine, &["--config", &config]);
    let report = cluster.json(&["submit", "--wait", &cluster.guest(&guest::exits(0))]);
    let job = report["job"].as_str().unwrap();
    let attempt = until("the attempt is in the node's log", || {
        let log = cluster.node_log();
        let (complete, _) = log.rsplit_once('\n')?;
        let lines: Vec<Value> = complete.lines().filter(|line| line.starts_with('{')).map(parse).collect();
        lines.into_iter().find(|line| line["span"]["job"] == job && line["fields"]["message"] == "close")
    });
    assert_eq!((&attempt["span"]["name"], &attempt["span"]["attempt"]), (&"attempt".into(), &1.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_people_read_names_the_trace_of_a_job_that_has_one() {
    let cluster = Cluster::shared();
    let pushed = cluster.wasmjob(&["push", &cluster.guest(&guest::exits(3))]).succeeded();
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let job = JobSpec { traceparent: Some(trace.into()), ..JobSpec::new(new_job_id(), pushed.text().trim()) };
    let id = cluster.connect().await.submit(&job).await.unwrap().to_string();
    cluster.until_state(&id, "failed");
    until("the trace is in the node's log", || {
        cluster.node_log().lines().any(|line| line.contains(&id) && line.contains(trace)).then_some(())
    });
}

fn parse(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}
