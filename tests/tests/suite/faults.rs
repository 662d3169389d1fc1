//! Nodes and servers that die, hang and come back: no job is lost and none has two results.

use std::{collections::HashSet, time::Duration};

use futures_util::{StreamExt, TryStreamExt};
use rustix::process::Signal;
use serde_json::Value;
use tokio::time::timeout;
use wasmjob_host::queue::{Broker, EventReader, names};
use wasmjob_tests::{Cluster, Seen, guest, send, until};

/// A job so small that memory never is what it waits for.
const SMALL: [&str; 2] = ["--limit", "memory=1MiB"];

fn ids(jobs: &Value) -> HashSet<String> {
    jobs.as_array().unwrap().iter().map(|job| job["job"].as_str().unwrap().to_owned()).collect()
}

fn pid(node: &Value) -> u32 {
    u32::try_from(node["pid"].as_u64().unwrap()).unwrap()
}

/// The jobs that run on a node now, each with an announcement of it in its event.
fn running_on(cluster: &Cluster, node: &str) -> HashSet<String> {
    let mut running = cluster.json(&["ps", "--state", "running", "--max", "1000"]);
    running.as_array_mut().unwrap().retain(|job| job["node"] == node);
    ids(&running)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_killed_loses_no_job_and_no_job_has_two_results() {
    let cluster = Cluster::up_with(&["--listen", "127.0.0.1", "--slots", "20"]);
    let node = cluster.join("n2", &["--slots", "20"]);
    let seen = Seen::listen(&cluster.connect().await).await;
    let guest = cluster.guest(&guest::sleeps_ms(1_000));
    let waiting = cluster.start(&[&["submit", "--wait", "--json", "--repeat", "200", &guest], &SMALL[..]].concat());
    let lost = until("the node is busy", || {
        let running = running_on(&cluster, "n2");
        (running.len() >= 10).then_some(running)
    });
    cluster.kill(node.process.pid());
    let reports = waiting.finish().succeeded().json();
    assert_eq!(ids(&reports).len(), 200);
    for report in reports.as_array().unwrap() {
        let job = report["job"].as_str().unwrap();
        assert_eq!(report["state"], "succeeded", "{report}");
        assert_eq!(seen.ends(job), ["succeeded"], "{job}");
        let earlier = report["attempts"].as_array().unwrap();
        assert_eq!(report["attempt"], earlier.len() + 1, "{report}");
        assert!(earlier.iter().all(|attempt| attempt["outcome"]["kind"] == "lost" && attempt["node"] == "n2"));
    }
    // Some may have ended between the look and the kill, but not most.
    let again = reports.as_array().unwrap().iter().filter(|report| report["attempt"] == 2).count();
    assert!((1..=20).contains(&again), "{again} of {} were made again", lost.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_had_every_job_is_started_again_and_goes_on() {
    let cluster = Cluster::up();
    let seen = Seen::listen(&cluster.connect().await).await;
    let guest = cluster.guest(&guest::sleeps_ms(1_000));
    let waiting = cluster.start(&[&["submit", "--wait", "--json", "--repeat", "12", &guest], &SMALL[..]].concat());
    until("every slot is busy", || (running_on(&cluster, "n1").len() == 8).then_some(()));
    let before = pid(&cluster.node("n1"));
    cluster.kill(before);
    let reports = waiting.finish().succeeded().json();
    assert_ne!(pid(&cluster.node("n1")), before);
    for report in reports.as_array().unwrap() {
        assert_eq!(seen.ends(report["job"].as_str().unwrap()), ["succeeded"]);
    }
    let lost = reports.as_array().unwrap().iter().filter(|report| report["attempts"][0]["outcome"]["kind"] == "lost");
    assert!(lost.count() >= 1, "{reports}");
}

#[test]
fn a_server_that_is_killed_comes_back_and_whoever_waits_gets_the_answer() {
    let cluster = Cluster::up();
    let guest = cluster.guest(&guest::sleeps_ms(1_000));
    let waiting = cluster.start(&[&["submit", "--wait", "--json", "--repeat", "12", &guest], &SMALL[..]].concat());
    until("the jobs run", || (running_on(&cluster, "n1").len() == 8).then_some(()));
    let before = cluster.server_pid();
    cluster.kill(before);
    let reports = waiting.finish().succeeded().json();
    assert!(reports.as_array().unwrap().iter().all(|report| report["state"] == "succeeded"), "{reports}");
    assert_ne!(cluster.server_pid(), before);
    cluster.wasmjob(&["submit", "--wait", &guest]).succeeded();
}

#[test]
fn a_node_asks_again_when_the_server_forgot_that_it_waits() {
    let cluster = Cluster::up();
    let guest = cluster.guest(&guest::says("hello"));
    cluster.wasmjob(&["submit", "--wait", &guest]).succeeded();
    // Every slot waits for a job. The server that knew starts anew, and nobody tells the node that it knows no more.
    let before = cluster.server_pid();
    cluster.kill(before);
    until("the server is back", || {
        let said = cluster.wasmjob(&["submit", "--json", &guest]);
        (said.code == Some(0)).then_some(())
    });
    let later = cluster.wasmjob(&["submit", "--wait", &guest]).succeeded();
    assert_eq!(later.text(), "hello");
}

#[test]
fn everything_that_is_killed_at_once_goes_on_where_it_was() {
    let mut cluster = Cluster::up();
    let guest = cluster.guest(&guest::sleeps_ms(1_000));
    let jobs = cluster.json(&[&["submit", "--repeat", "12", &guest], &SMALL[..]].concat());
    until("the jobs run", || (running_on(&cluster, "n1").len() == 8).then_some(()));
    let children = cluster.children();
    cluster.process().signal(Signal::KILL);
    assert_eq!(cluster.process().until_it_ends(), 128 + 9);
    assert_eq!(children.len(), 2);
    cluster.up_again();
    for job in ids(&jobs) {
        cluster.until_state(&job, "succeeded");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_whose_messages_disappeared_are_found_and_ended() {
    let cluster = Cluster::up_with(&["--slots", "2"]);
    let broker = cluster.connect().await;
    let guest = cluster.guest(&guest::exits(7));
    let retrying = cluster.submit(&["--retries", "1", "--backoff", "1s", "--backoff-max", "1s", &guest]);
    cluster.until_state(&retrying, "retrying");
    let running = cluster.submit(&[&cluster.guest(&guest::sleeps_ms(60_000))]);
    cluster.until_state(&running, "running");
    // The node goes, and then the messages.
    let node = pid(&cluster.node("n1"));
    send(node, Signal::STOP);
    broker.jetstream.get_stream(names::queue_stream("default")).await.unwrap().purge().await.unwrap();
    cluster.kill(node);
    assert_eq!(cluster.until_state(&retrying, "dead")["attempt"], 2);
    let attempts = until("the other one is made again", || {
        let report = cluster.json(&["get", &running]);
        (report["attempt"] == 2).then(|| report["attempts"].clone())
    });
    assert_eq!(attempts[0]["outcome"]["kind"], "lost", "{attempts}");
    assert_eq!(cluster.metric("n1", r#"wasmjob_reconciled_total{kind="job"}"#), 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_goes_on_reading_events_when_the_server_forgot_how_far_it_was() {
    let cluster = Cluster::up();
    let broker = cluster.connect().await;
    let guest = cluster.guest(&guest::exits(7));
    let retrying = cluster.submit(&["--retries", "1", "--backoff", "2s", "--backoff-max", "2s", &guest]);
    cluster.until_state(&retrying, "retrying");
    forget_readers(&broker).await;
    broker.jetstream.get_stream(names::queue_stream("default")).await.unwrap().purge().await.unwrap();
    assert_eq!(cluster.until_state(&retrying, "dead")["attempt"], 2);
}

/// Asked for many events at once without a consumer, the server counts all there are.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_reads_many_events_does_not_have_all_of_them_counted() {
    let cluster = Cluster::up();
    let broker = cluster.connect().await;
    let mut asked = broker.client.subscribe(format!("$JS.API.DIRECT.GET.{}", names::EVENTS)).await.unwrap();
    broker.client.flush().await.unwrap();
    let job = cluster.submit(&[&cluster.guest(&guest::exits(0))]);
    cluster.until_state(&job, "succeeded");
    assert_eq!(cluster.json(&["ps", "--state", "succeeded"]).as_array().unwrap().len(), 1);
    let events = broker.jetstream.get_stream(names::EVENTS).await.unwrap();
    let readers: Vec<_> = events.consumers().try_collect().await.unwrap();
    // That of the node and that of the list.
    assert!(readers.len() >= 2, "{readers:?}");
    // What was asked before this came before it: both went through the server.
    broker.client.publish(format!("$JS.API.DIRECT.GET.{}", names::EVENTS), "the end".into()).await.unwrap();
    let mut next = async || timeout(Duration::from_secs(10), asked.next()).await.expect("the end comes").unwrap();
    loop {
        let request = next().await;
        if &*request.payload == b"the end" {
            return;
        }
        assert!(!String::from_utf8_lossy(&request.payload).contains("batch"), "{request:?}");
    }
}

/// The server lost what it had not written to its disk: there are fewer events than a node has read.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_read_more_events_than_there_are_begins_anew() {
    let cluster = Cluster::up();
    let job = cluster.submit(&[&cluster.guest(&guest::exits(0))]);
    cluster.until_state(&job, "succeeded");
    let broker = cluster.connect().await;
    for (start, expected) in [(1, 1), (2, 0), (1_000, 1)] {
        let batch = EventReader::new(start, Duration::from_secs(10)).batch(&broker).await.unwrap();
        let jobs: Vec<_> = batch.events.iter().map(|event| event.head().unwrap().job.to_string()).collect();
        assert_eq!(jobs, vec![job.clone(); expected], "from {start}");
        assert!(batch.is_last);
    }
}

async fn forget_readers(broker: &Broker) {
    let events = broker.jetstream.get_stream(names::EVENTS).await.unwrap();
    let readers: Vec<String> = events.consumer_names().try_collect().await.unwrap();
    assert!(!readers.is_empty());
    for reader in readers {
        events.delete_consumer(&reader).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_comes_too_late_changes_nothing() {
    let cluster = Cluster::up_with(&["--listen", "127.0.0.1", "--slots", "1"]);
    let broker = cluster.connect().await;
    let seen = Seen::listen(&broker).await;
    let guest = cluster.guest(&guest::sleeps_ms(1_000));
    let job = cluster.submit(&[&[guest.as_str()], &SMALL[..]].concat());
    cluster.until_state(&job, "running");
    cluster.signal_node("n1", Signal::STOP);
    let _n2 = cluster.join("n2", &["--slots", "1"]);
    let report = cluster.until_state(&job, "succeeded");
    assert_eq!((&report["node"], &report["attempt"]), (&"n2".into(), &2.into()));
    assert_eq!(
        (&report["attempts"][0]["outcome"]["kind"], &report["attempts"][0]["node"]),
        (&"lost".into(), &"n1".into())
    );
    let stored = broker.event(job.parse().unwrap()).await.unwrap().unwrap();
    cluster.signal_node("n1", Signal::CONT);
    until("the late attempt has ended", || {
        (cluster.metric("n1", r#"wasmjob_attempts_running{queue="default"}"#) == 0.0).then_some(())
    });
    // The node is in order: it takes and ends more jobs, while the other one is held up.
    cluster.signal_node("n2", Signal::STOP);
    let next = cluster.submit(&[&[cluster.guest(&guest::exits(0)).as_str()], &SMALL[..]].concat());
    cluster.until_state(&next, "succeeded");
    assert_eq!(broker.event(job.parse().unwrap()).await.unwrap().unwrap(), stored);
    assert_eq!(seen.ends(&job), ["succeeded"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_outlives_its_lease_many_times_over_runs_once() {
    let cluster = Cluster::up();
    let seen = Seen::listen(&cluster.connect().await).await;
    let report = cluster.json(&["submit", "--wait", &cluster.guest(&guest::sleeps_ms(5_000))]);
    assert_eq!((&report["state"], &report["attempt"]), (&"succeeded".into(), &1.into()));
    assert_eq!(seen.ends(report["job"].as_str().unwrap()), ["succeeded"]);
    assert!(cluster.metric("n1", "wasmjob_lease_renewals_total") >= 2.0);
    assert_eq!(cluster.metric("n1", "wasmjob_redeliveries_total"), 0.0);
}
