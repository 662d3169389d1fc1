//! Jobs that share a key: the same job once, and so many at the same time.

use std::{collections::HashSet, time::Duration};

use rustix::process::Signal;
use serde_json::Value;
use wasmjob_host::queue::Broker;
use wasmjob_host::wire::{Concurrency, JobSpec, new_job_id};
use wasmjob_tests::{Cluster, guest, until};

/// A job so small that memory never is what it waits for.
const SMALL: [&str; 2] = ["--limit", "memory=1MiB"];

#[test]
fn a_job_with_a_key_runs_once_and_another_one_is_refused() {
    let cluster = Cluster::shared();
    let (hello, other) = (cluster.guest(&guest::says("hello")), cluster.guest(&guest::says("other")));
    let first = cluster.submit(&["--dedupe", "report 2026-11", &hello]);
    cluster.until_state(&first, "succeeded");
    let again = cluster.wasmjob(&["submit", "--dedupe", "report 2026-11", "--in", "1h", &hello]).succeeded();
    assert_eq!(again.text().trim(), first);
    again.saying(&["submitted with the same key before"]);
    let waited = cluster.wasmjob(&["submit", "--wait", "--dedupe", "report 2026-11", &hello]).succeeded();
    assert_eq!(waited.text(), "hello");
    for args in [&[other.as_str()][..], &[&hello, "--input", "x"], &[&hello, "--priority", "9"]] {
        let refused = cluster.wasmjob(&[&["submit", "--dedupe", "report 2026-11"], args].concat());
        refused.ended(2).saying(&[&first, "report 2026-11", "another key"]);
    }
    let report = cluster.json(&["get", &first]);
    assert_eq!((&report["state"], &report["attempt"]), (&"succeeded".into(), &1.into()));
    // Once nobody knows the job any more, the key is free.
    let dead =
        cluster.submit(&["--dedupe", "x", &cluster.guest(&guest::exits(7)), "--retries", "1", "--backoff", "1ms"]);
    cluster.until_state(&dead, "dead");
    let again = cluster.wasmjob(&[
        "submit",
        "--dedupe",
        "x",
        &cluster.guest(&guest::exits(7)),
        "--retries",
        "1",
        "--backoff",
        "1ms",
    ]);
    again.succeeded().saying(&["(dead)", "wasmjob retry"]);
    // As is said there: it is had again with its own key.
    cluster.wasmjob(&["retry", &dead]).succeeded();
    until("it has been tried twice more", || (cluster.json(&["get", &dead])["attempt"] == 4).then_some(()));
    cluster.until_state(&dead, "dead");
    cluster.wasmjob(&["dead", "rm", &dead]).succeeded();
    let next = cluster.submit(&["--dedupe", "x", &hello]);
    assert_ne!(next, dead);
    cluster.until_state(&next, "succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_at_the_same_time_gets_the_same_job() {
    let cluster = Cluster::shared();
    let broker = cluster.connect().await;
    let component =
        cluster.wasmjob(&["push", &cluster.guest(&guest::says("hello"))]).succeeded().text().trim().to_owned();
    let spec = JobSpec { dedupe_key: Some("at once".into()), ..JobSpec::new(new_job_id(), component) };
    let submitted = futures_util::future::join_all((0..20).map(|_| {
        let (broker, spec) = (broker.clone(), JobSpec { id: new_job_id(), ..spec.clone() });
        tokio::spawn(async move { broker.submit(&spec).await.unwrap() })
    }));
    let ids: HashSet<String> = submitted.await.into_iter().map(|id| id.unwrap().to_string()).collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    cluster.until_state(ids.iter().next().unwrap(), "succeeded");
    // A client that publishes without asking gets nothing run.
    let rude = JobSpec { id: new_job_id(), ..spec };
    publish(&broker, &rude).await;
    let report = cluster.until_state(&rude.id.to_string(), "cancelled");
    assert!(report["outcome"]["message"].as_str().unwrap().contains(ids.iter().next().unwrap()), "{report}");
}

async fn publish(broker: &Broker, spec: &JobSpec) {
    broker.jetstream.publish("wj.q.default.any.p5", spec.to_message()).await.unwrap().await.unwrap();
}

/// The most jobs that ran at the same time, by their own times.
fn most_at_once(reports: &Value) -> usize {
    let mut changes: Vec<(String, i32)> = Vec::new();
    for report in reports.as_array().unwrap() {
        let time = |name: &str| report["times"][name].as_str().unwrap().to_owned();
        // Ends before starts, where both are in the same millisecond.
        changes.extend([(time("started") + "1", 1), (time("finished") + "0", -1)]);
    }
    changes.sort();
    let mut running = 0;
    let at_once = changes.iter().map(|(_, change)| {
        running += change;
        running
    });
    usize::try_from(at_once.max().unwrap()).unwrap()
}

#[test]
fn no_more_jobs_of_a_key_run_at_the_same_time_than_they_say() {
    let cluster = Cluster::up();
    let sleeps = cluster.guest(&guest::sleeps_ms(200));
    let args = ["submit", "--wait", "--json", "--repeat", "8", "--concurrency", "database=2", &sleeps];
    let waiting = cluster.start(&[&args[..], &SMALL].concat());
    // Others are not kept from the slots.
    cluster.wasmjob(&[&["submit", "--wait", &sleeps][..], &SMALL].concat()).succeeded();
    let reports = waiting.finish().succeeded().json();
    assert!(reports.as_array().unwrap().iter().all(|report| report["state"] == "succeeded" && report["attempt"] == 1));
    assert_eq!(most_at_once(&reports), 2, "{reports}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_wants_to_be_alone_waits_for_all_others_also_for_those_who_do_not() {
    let broker = Cluster::shared().connect().await;
    let lease = Duration::from_secs(60);
    let place = async |job, max| {
        let concurrency = Concurrency { key: "not so many".into(), max };
        broker.take_place(&concurrency, job, lease).await.unwrap()
    };
    let [first, second, alone] = [(); 3].map(|()| new_job_id());
    let firsts = place(first, 3).await.expect("nobody has one");
    let seconds = place(second, 3).await.expect("there are three");
    broker.leave_place(firsts).await;
    assert!(place(alone, 1).await.is_none(), "the second one still runs");
    assert!(place(second, 1).await.is_some(), "its own stays its own");
    assert_eq!(broker.holders("not so many").await.unwrap(), 1);
    drop(seconds);
}

#[test]
fn a_place_of_a_node_that_died_is_free_after_its_lease() {
    let cluster = Cluster::up_with(&["--listen", "127.0.0.1", "--slots", "1"]);
    let sleeps = cluster.guest(&guest::sleeps_ms(60_000));
    let holds = cluster.submit(&["--concurrency", "database=1", &sleeps]);
    cluster.until_state(&holds, "running");
    let _n2 = cluster.join("n2", &["--slots", "2"]);
    let waits = cluster.submit(&["--concurrency", "database=1", &cluster.guest(&guest::says("hello"))]);
    until("it was looked at", || (cluster.metric("n2", "wasmjob_redeliveries_total") > 0.0).then_some(()));
    let report = cluster.json(&["get", &waits]);
    assert_eq!(
        (&report["state"], &report["waits_for"]),
        (&"queued".into(), &"a place of key `database`, of which 1 at once may run".into())
    );
    // The node sleeps: its job and the place of its job are for others.
    cluster.signal_node("n1", Signal::STOP);
    until("one of the two has the place", || {
        let states = [&holds, &waits].map(|job| cluster.json(&["get", job]));
        (states[0]["node"] == "n2" || states[1]["state"] == "succeeded").then_some(())
    });
    cluster.wasmjob(&["cancel", &holds]).succeeded();
    cluster.until_state(&waits, "succeeded");
    cluster.signal_node("n1", Signal::CONT);
}

/// The node that slept must not hand back the message that another one works on by now.
#[test]
fn a_node_that_lost_its_place_asleep_leaves_the_job_to_who_has_it() {
    let cluster = Cluster::up_with(&["--listen", "127.0.0.1", "--slots", "1"]);
    let sleeps = cluster.guest(&guest::sleeps_ms(9_000));
    let job = cluster.submit(&[&["--concurrency", "printer=1", sleeps.as_str()], &SMALL[..]].concat());
    cluster.until_state(&job, "running");
    let _n2 = cluster.join("n2", &["--slots", "1"]);
    cluster.signal_node("n1", Signal::STOP);
    until("the other one has it", || {
        let report = cluster.json(&["get", &job]);
        (report["node"] == "n2" && report["state"] == "running").then_some(())
    });
    cluster.signal_node("n1", Signal::CONT);
    let report = cluster.until_state(&job, "succeeded");
    assert_eq!((&report["attempt"], &report["node"]), (&2.into(), &"n2".into()), "{report}");
}

#[test]
fn keys_that_make_no_sense_are_refused() {
    let cluster = Cluster::shared();
    let hello = cluster.guest(&guest::says("hello"));
    for (args, named) in [
        (&["--concurrency", "database"][..], "NAME=VALUE"),
        (&["--concurrency", "database=many"], "gpu=2"),
        (&["--concurrency", "database=0"], "1 to 1000"),
        (&["--dedupe", ""], "1 to 256"),
        (&["--dedupe", "x", "--repeat", "2"], "--repeat"),
    ] {
        cluster.wasmjob(&[&["submit", &hello], args].concat()).ended(2).saying(&[named]);
    }
}
