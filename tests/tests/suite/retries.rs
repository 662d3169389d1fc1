//! Jobs that are tried again, that wait for a time, and that are had again.

use std::time::{Duration, Instant};

use serde_json::Value;
use wasmjob_host::wire::{Report, State, new_job_id};
use wasmjob_runtime::OutcomeKind;
use wasmjob_tests::{Cluster, guest};

/// Retries at once, so that tests need not wait.
const AT_ONCE: [&str; 4] = ["--backoff", "1ms", "--backoff-max", "1ms"];

fn kinds(report: &Value) -> Vec<OutcomeKind> {
    let attempts = report["attempts"].as_array().unwrap();
    attempts.iter().map(|attempt| serde_json::from_value(attempt["outcome"]["kind"].clone()).unwrap()).collect()
}

#[test]
fn a_job_that_fails_is_tried_again_and_kept_as_dead_with_every_end() {
    let cluster = Cluster::shared();
    let component = cluster.guest(&guest::exits(7));
    let job = cluster.submit(&[&["--retries", "2", &component][..], &AT_ONCE].concat());
    let report = cluster.until_state(&job, "dead");
    assert_eq!((&report["attempt"], &report["outcome"]["exit_code"]), (&3.into(), &7.into()), "{report}");
    assert_eq!(kinds(&report), [OutcomeKind::Error, OutcomeKind::Error]);

    let dead = cluster.json(&["dead", "ls"]);
    assert!(dead.as_array().unwrap().iter().any(|dead| dead["job"] == job.as_str()), "{dead:?}");
    cluster.wasmjob(&["dead", "retry", &job]).succeeded();
    let report = cluster.until_state(&job, "dead");
    assert_eq!((&report["attempt"], kinds(&report).len()), (&6.into(), 5), "{report}");
    cluster.wasmjob(&["dead", "rm", &job]).succeeded();
    cluster.wasmjob(&["get", &job]).ended(2).saying(&["nobody knows job"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_also_ends_a_job_that_its_node_was_just_going_to_try_again() {
    let cluster = Cluster::shared();
    let broker = cluster.connect().await;
    let job = new_job_id();
    let running = Report { state: State::Running, attempt: 1, ..Report::queued(job) };
    let sequence = broker.store(&running, 0).await.unwrap();
    let cancel = cluster.start(&["cancel", &job.to_string()]);
    while !broker.is_asked_to_cancel(job).await.unwrap() {}
    broker.store(&Report { state: State::Retrying, ..running }, sequence).await.unwrap();
    cancel.finish().succeeded().saying(&["cancelled"]);
    assert_eq!(broker.event(job).await.unwrap().unwrap().report.state, State::Cancelled);
}

#[test]
fn what_cannot_end_differently_is_not_tried_again() {
    let cluster = Cluster::shared();
    let spins = cluster.guest(&guest::spins());
    let limits = ["--retries", "1", "--limit", "fuel=1e6"];
    let job = cluster.submit(&[&[spins.as_str()][..], &limits, &AT_ONCE].concat());
    assert_eq!(cluster.until_state(&job, "failed")["attempt"], 1);
    // Limits are, if somebody asks for it.
    let job = cluster.submit(&[&[spins.as_str(), "--retry-on", "limit"][..], &limits, &AT_ONCE].concat());
    assert_eq!(cluster.until_state(&job, "dead")["attempt"], 2);
}

#[test]
fn a_job_that_waits_for_its_retry_is_seen_and_can_be_cancelled() {
    let cluster = Cluster::shared();
    let component = cluster.guest(&guest::traps());
    let job = cluster.submit(&[&component, "--retries", "1", "--backoff", "10h", "--backoff-max", "10h"]);
    let report = cluster.until_state(&job, "retrying");
    assert!(report["times"]["next"].is_string() && report["outcome"]["kind"] == "trap", "{report}");
    cluster.wasmjob(&["cancel", &job]).succeeded();
    let report = cluster.until_state(&job, "cancelled");
    assert_eq!(kinds(&report), [OutcomeKind::Trap], "{report}");
}

#[test]
fn a_job_that_was_cancelled_can_be_had_again() {
    let cluster = Cluster::shared();
    let component = cluster.guest(&guest::says("hello"));
    let waits = cluster.submit(&["--in", "10h", &component]);
    cluster.wasmjob(&["cancel", &waits]).succeeded();
    cluster.wasmjob(&["retry", &waits]).succeeded();
    cluster.until_state(&waits, "succeeded");

    let runs = cluster.submit(&[&cluster.guest(&guest::sleeps_ms(60_000))]);
    for _ in 0..3 {
        cluster.until_state(&runs, "running");
        cluster.wasmjob(&["cancel", &runs]).succeeded();
        assert_eq!(cluster.until_state(&runs, "cancelled")["outcome"]["kind"], "cancelled");
        cluster.wasmjob(&["retry", &runs]).succeeded();
    }
    cluster.until_state(&runs, "running");
    cluster.wasmjob(&["cancel", &runs]).succeeded();
}

#[test]
fn a_past_attempt_is_made_once_more_and_compared() {
    let cluster = Cluster::shared();
    let wordcount = guest::example("wordcount");
    let report =
        cluster.json(&["submit", "--wait", &wordcount, "--deterministic=7", "--input", "a b a", "--env", "A=b"]);
    let job = report["job"].as_str().unwrap();
    let again = cluster.wasmjob(&["replay", job]).succeeded();
    assert_eq!(again.text().trim(), report["output"]["text"].as_str().unwrap().trim());
    again.saying(&["the same end, the same output, the same fuel"]);
    // What it cost is told as a report of its own; the job stays as it was.
    let again = cluster.json(&["replay", job]);
    assert_eq!((&again["usage"]["fuel"], &again["attempt"]), (&report["usage"]["fuel"], &report["attempt"]));
    assert_eq!(cluster.json(&["get", job])["times"], report["times"]);
    // A limit that ended it ends it again, where it did.
    let spins = cluster.guest(&guest::spins());
    let report = cluster.wasmjob(&["submit", "--wait", "--json", &spins, "--limit", "fuel=1e6"]).ended(1).json();
    let again = cluster.wasmjob(&["replay", report["job"].as_str().unwrap()]).ended(1);
    again.saying(&["reached its fuel limit", "the same end"]);
    cluster.wasmjob(&["replay", "01arz3ndektsv4rrffq69g5fav"]).ended(2).saying(&["nobody knows job"]);
    let waits = cluster.submit(&["--in", "10h", &spins]);
    cluster.wasmjob(&["replay", &waits]).ended(2).saying(&["it is waiting"]);
    // Of several jobs to be had again, one that cannot be keeps the others from nothing.
    cluster
        .wasmjob(&["retry", &waits, report["job"].as_str().unwrap()])
        .ended(2)
        .saying(&["has not ended", "queued again"]);
    cluster.wasmjob(&["cancel", &waits]).succeeded();
}

#[test]
fn a_job_starts_at_its_time_and_not_before() {
    let cluster = Cluster::shared();
    let component = cluster.guest(&guest::says("hello"));
    let later = cluster.submit(&["--in", "10h", &component]);
    assert_eq!(cluster.until_state(&later, "waiting")["attempt"], 0);
    let started = Instant::now();
    let said = cluster.wasmjob(&["submit", "--wait", "--in", "1s", &component]).succeeded();
    assert!(said.text() == "hello" && started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());
    cluster.wasmjob(&["cancel", &later]).succeeded();
    assert_eq!(cluster.until_state(&later, "cancelled")["attempt"], 0);
}

#[test]
fn times_and_retries_that_make_no_sense_are_refused() {
    let cluster = Cluster::shared();
    let component = cluster.guest(&guest::says("hello"));
    for (flags, named) in [
        (&["--at", "tomorrow"][..], "2026-01-31T07:30:00Z"),
        (&["--in", "20000d"], "ten years"),
        (&["--at", "2026-01-31T07:30:00Z", "--in", "1s"], "--in"),
        (&["--retries", "101"], "101"),
        (&["--retries", "1", "--retry-on", "lost"], "error, trap, limit"),
        (&["--priority", "10"], "0..=9"),
    ] {
        cluster.wasmjob(&[&["submit", &component], flags].concat()).ended(2).saying(&[named]);
    }
    cluster.wasmjob(&["dead", "retry"]).ended(2).saying(&["--all"]);
    let done = cluster.submit(&[&component]);
    cluster.until_state(&done, "succeeded");
    cluster.wasmjob(&["dead", "rm", &done]).ended(2).saying(&["not dead but succeeded", "wasmjob retry"]);
    cluster.wasmjob(&["retry", &done]).succeeded();
    assert_eq!(cluster.until_state(&done, "succeeded")["attempt"], 2);
}
