//! Queues as operators see them: what waits, pause, purge, rates, routes, slots.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::Value;
use time::OffsetDateTime;
use tokio::time::timeout;
use wasmjob_host::{queue::names, wire::timestamp};
use wasmjob_tests::{Cluster, guest, until};

/// So long a message may take.
const PATIENCE: Duration = Duration::from_secs(20);

fn row(cluster: &Cluster, queue: &str) -> Value {
    let rows = cluster.json(&["queue", "ls"]);
    rows.as_array().unwrap().iter().find(|row| row["queue"] == queue).unwrap().clone()
}

#[test]
fn a_queue_that_rests_starts_nothing_and_goes_on_where_it_was() {
    let cluster = Cluster::up_with(&["--slots", "1", "--queues", "default,ml:3"]);
    let (hello, sleeps) = (cluster.guest(&guest::says("hello")), cluster.guest(&guest::sleeps_ms(1_500)));
    let runs = cluster.submit(&[&sleeps]);
    cluster.until_state(&runs, "running");
    cluster.wasmjob(&["queue", "pause", "default"]).succeeded();
    cluster.wasmjob(&["queue", "pause", "default"]).succeeded().saying(&["paused already"]);
    let said = cluster.wasmjob(&["submit", &hello]).succeeded().saying(&["queue default is paused"]);
    let waits = said.text().trim().to_owned();
    let waits_for = cluster.json(&["get", &waits])["waits_for"].clone();
    assert!(waits_for.as_str().unwrap().contains("paused"), "{waits_for}");
    // What runs ends; what waits does not start, also at a node that comes later. Other queues are not concerned.
    cluster.until_state(&runs, "succeeded");
    cluster.kill(u32::try_from(cluster.node("n1")["pid"].as_u64().unwrap()).unwrap());
    cluster.wasmjob(&["submit", "--wait", "--queue", "ml", &hello]).succeeded();
    let default = row(&cluster, "default");
    assert_eq!((&default["state"], &default["waiting"], &default["running"]), (&"paused".into(), &1.into(), &0.into()));
    assert!(default["oldest"].is_string() && default["slots"] == 1, "{default}");
    assert_eq!(row(&cluster, "ml")["slots"], 3);
    cluster.wasmjob(&["queue", "resume", "default"]).succeeded();
    cluster.until_state(&waits, "succeeded");
    assert_eq!(row(&cluster, "default")["oldest"], Value::Null);
}

#[test]
fn what_waits_is_purged_and_what_runs_goes_on() {
    let cluster = Cluster::up_with(&["--slots", "1"]);
    let (hello, sleeps) = (cluster.guest(&guest::says("hello")), cluster.guest(&guest::sleeps_ms(60_000)));
    let runs = cluster.submit(&[&sleeps]);
    cluster.until_state(&runs, "running");
    let waiting: Vec<String> = [&[hello.as_str()][..], &["--priority", "9", &hello], &["--in", "10h", &hello]]
        .map(|args| cluster.submit(args))
        .into();
    let dry = cluster.json(&["queue", "purge", "default", "--dry-run"]);
    assert_eq!((&dry["jobs"], &dry["lanes"]["any p9"], &dry["dry_run"]), (&3.into(), &1.into(), &true.into()), "{dry}");
    assert_eq!(cluster.until_state(&waiting[0], "queued")["attempt"], 0);
    cluster
        .wasmjob(&["queue", "purge", "default"])
        .succeeded()
        .saying(&["3 jobs that waited in queue default cancelled"]);
    for job in &waiting {
        assert_eq!(cluster.until_state(job, "cancelled")["attempt"], 0);
    }
    let left = row(&cluster, "default");
    assert_eq!((&left["waiting"], &left["running"], &left["later"]), (&0.into(), &1.into(), &0.into()), "{left}");
    cluster.until_state(&runs, "running");
    // One that was purged can be had again.
    cluster.wasmjob(&["retry", &waiting[0]]).succeeded();
    cluster.wasmjob(&["cancel", &runs]).succeeded();
    cluster.until_state(&waiting[0], "succeeded");
}

#[test]
fn a_cancelled_job_waits_no_more_also_where_nobody_would_take_it() {
    let cluster = Cluster::up_with(&["--slots", "1"]);
    let hello = cluster.guest(&guest::says("hello"));
    let job = cluster.submit(&["--label", "gpu=a100", &hello]);
    let shown = cluster.wasmjob(&["get", &job]).succeeded();
    assert!(shown.text().contains("waits for  no node of queue default has all of gpu=a100"), "{}", shown.text());
    assert_eq!(row(&cluster, "default")["waiting"], 1);
    cluster.wasmjob(&["cancel", &job]).succeeded();
    let default = row(&cluster, "default");
    assert_eq!((&default["waiting"], &default["oldest"]), (&0.into(), &Value::Null), "{default}");
}

#[test]
fn a_job_expires_also_where_nobody_would_take_it_and_not_once_it_has_started() {
    let cluster = Cluster::up_with(&["--slots", "2", "--queues", "default,rests"]);
    let (hello, sleeps) = (cluster.guest(&guest::says("hello")), cluster.guest(&guest::sleeps_ms(2_500)));
    let runs = cluster.submit(&["--expires", "1s", &sleeps]);
    cluster.until_state(&runs, "running");
    cluster.wasmjob(&["queue", "pause", "rests"]).succeeded();
    let waiting = [
        cluster.submit(&["--expires", "1s", "--queue", "rests", &hello]),
        cluster.submit(&["--expires", "1s", "--label", "gpu=a100", &hello]),
        cluster.submit(&["--expires", "1s", "--in", "1s", "--queue", "rests", &hello]),
    ];
    for job in &waiting {
        let report = cluster.until_state(job, "cancelled");
        assert_eq!(report["attempt"], 0);
        assert_eq!(report["outcome"]["message"], "expired: it had not started 1s after it could");
    }
    until("their messages are gone", || {
        let rows = ["default", "rests"].map(|queue| row(&cluster, queue)["waiting"] == 0);
        (rows == [true, true]).then_some(())
    });
    cluster.wasmjob(&["result", &waiting[0]]).ended(1).saying(&["expired: it had not started 1s after it could"]);
    // Somebody may want it all the same, then without that limit.
    cluster.wasmjob(&["retry", &waiting[1]]).succeeded();
    assert_eq!(cluster.json(&["get", &waiting[1]])["spec"]["expires_ms"], Value::Null);
    cluster.wasmjob(&["queue", "resume", "rests"]).succeeded();
    cluster.until_state(&runs, "succeeded");
    assert_eq!(cluster.until_state(&waiting[0], "cancelled")["attempt"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_a_queue_with_a_rate_start_no_faster() {
    let cluster = Cluster::up();
    let hello = cluster.guest(&guest::says("hello"));
    cluster.wasmjob(&["submit", "--wait", &hello]).succeeded();
    cluster.wasmjob(&["queue", "rate", "default", "5/s"]).succeeded();
    // The node knows as soon as it takes a turn to start a job.
    let keys = cluster.connect().await.jetstream.get_key_value(names::KEYS).await.unwrap();
    while keys.get(names::turn_key("default")).await.unwrap().is_none() {
        cluster.wasmjob(&["submit", "--wait", &hello]).succeeded();
    }
    let started = Instant::now();
    cluster.wasmjob(&["submit", "--wait", "--repeat", "8", &hello]).succeeded();
    // Eight starts, the first at once, whichever of the eight slots makes them.
    assert!(started.elapsed() >= Duration::from_millis(7 * 200 - 50), "{:?}", started.elapsed());
    // A turn that is far off is not waited for when the rate is changed.
    cluster.wasmjob(&["queue", "rate", "default", "1/d"]).succeeded();
    let jobs = cluster.json(&["submit", "--repeat", "8", &hello]);
    let jobs: Vec<&str> = jobs.as_array().unwrap().iter().map(|job| job["job"].as_str().unwrap()).collect();
    let tomorrow = timestamp(OffsetDateTime::now_utc() + Duration::from_secs(12 * 3_600)).unwrap();
    while keys.get(names::turn_key("default")).await.unwrap().is_none_or(|turn| *turn < *tomorrow.as_bytes()) {}
    // Those that wait for their turn can be cancelled like any other.
    let waiting = cluster.json(&["ps", "--state", "queued"]);
    let waiting = waiting[0]["job"].as_str().unwrap();
    cluster.wasmjob(&["cancel", waiting]).succeeded();
    cluster.until_state(waiting, "cancelled");
    cluster.wasmjob(&["queue", "rate", "default", "none"]).succeeded();
    for job in jobs.iter().filter(|job| **job != waiting) {
        cluster.until_state(job, "succeeded");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_rests_starts_nothing_that_a_slot_has_and_keeps_its_turns() {
    let cluster = Cluster::up_with(&["--slots", "4"]);
    let keys = cluster.connect().await.jetstream.get_key_value(names::KEYS).await.unwrap();
    let next_turn = async || keys.get(names::turn_key("default")).await.unwrap();
    cluster.wasmjob(&["queue", "rate", "default", "1/d"]).succeeded();
    let hello = cluster.guest(&guest::says("hello"));
    while next_turn().await.is_none() {
        cluster.submit(&[&hello]);
    }
    let turn = next_turn().await;
    // More than there are slots: each slot waits for a turn with one of them.
    let jobs = cluster.json(&["submit", "--repeat", "8", &hello]);
    let until_used = |slots: f64, what: &str| {
        until(what, || (cluster.metric("n1", "wasmjob_slots_used") == slots).then_some(()));
    };
    until_used(4.0, "all slots have one");
    cluster.wasmjob(&["queue", "pause", "default"]).succeeded();
    until_used(0.0, "they are handed back");
    cluster.wasmjob(&["queue", "resume", "default"]).succeeded();
    until_used(4.0, "they are taken again");
    assert_eq!(next_turn().await, turn, "nobody had a turn, and none was given for free");
    // One that is far off under the rate before is none under this.
    cluster.wasmjob(&["queue", "rate", "default", "10/s"]).succeeded();
    let started = Instant::now();
    for job in jobs.as_array().unwrap() {
        cluster.until_state(job["job"].as_str().unwrap(), "succeeded");
    }
    assert!(started.elapsed() >= Duration::from_millis(7 * 100 - 50), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_slot_has_and_has_not_started_is_purged_and_does_not_run() {
    let cluster = Cluster::up_with(&["--slots", "4"]);
    let keys = cluster.connect().await.jetstream.get_key_value(names::KEYS).await.unwrap();
    cluster.wasmjob(&["queue", "rate", "default", "1/d"]).succeeded();
    let hello = cluster.guest(&guest::says("hello"));
    while keys.get(names::turn_key("default")).await.unwrap().is_none() {
        cluster.submit(&[&hello]);
    }
    cluster.json(&["submit", "--repeat", "8", &hello]);
    until("all slots have one", || (cluster.metric("n1", "wasmjob_slots_used") == 4.0).then_some(()));
    let started = |cluster: &Cluster| {
        let (_, metrics) = cluster.http("n1", "/metrics");
        let count = |line: &&str| line.starts_with("wasmjob_attempt_seconds_count");
        metrics.lines().filter(count).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = started(&cluster);
    cluster.wasmjob(&["queue", "purge", "default"]).succeeded();
    until("the slots are free", || (cluster.metric("n1", "wasmjob_slots_used") == 0.0).then_some(()));
    assert_eq!(started(&cluster), before);
    let cancelled = cluster.json(&["ps", "--state", "cancelled"]);
    assert!(cancelled.as_array().unwrap().len() >= 8, "{cancelled}");
    assert!(cancelled[0]["usage"]["queue_ms"].as_f64().unwrap() > 0.0, "{cancelled}");
}

/// The server removes the consumer of a lane that nobody asked for a day, as in a queue that is paused.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_taken_also_after_the_consumer_of_a_lane_has_gone() {
    let cluster = Cluster::up();
    let hello = cluster.guest(&guest::says("hello"));
    cluster.wasmjob(&["submit", "--wait", "--priority", "9", &hello]).succeeded();
    let queue = cluster.connect().await.jetstream.get_stream(names::queue_stream("default")).await.unwrap();
    for lane in ["any-p9", "any-p5"] {
        queue.delete_consumer(lane).await.unwrap();
    }
    for priority in ["5", "9"] {
        cluster.wasmjob(&["submit", "--wait", "--priority", priority, &hello]).succeeded();
    }
}

#[test]
fn jobs_that_wait_are_listed_however_many_are_before_them() {
    let cluster = Cluster::up_with(&["--slots", "3"]);
    let sleeps = cluster.guest(&guest::sleeps_ms(600_000));
    let args = ["submit", "--repeat", "6", "--limit", "memory=1MiB", &sleeps];
    let jobs: Vec<Value> = cluster.json(&args).as_array().unwrap().iter().map(|job| job["job"].clone()).collect();
    cluster.until_state(jobs[2].as_str().unwrap(), "running");
    let waiting = until("three wait", || {
        let waiting = cluster.json(&["ps", "--state", "queued", "--max", "2"]);
        (waiting.as_array()?.len() == 2).then_some(waiting)
    });
    assert!(waiting.as_array().unwrap().iter().all(|job| jobs[3..].contains(&job["job"])), "{waiting}");
}

#[test]
fn jobs_that_name_no_queue_go_where_routes_say() {
    let cluster = Cluster::up_with(&["--queues", "default,ml,slow"]);
    let file = cluster.file("train-forest.wasm", wat::parse_str(guest::says("hello")).unwrap());
    cluster.wasmjob(&["push", "--name", "train-small", &file]).succeeded();
    cluster.wasmjob(&["queue", "route", "train-*", "ml"]).succeeded();
    cluster.wasmjob(&["queue", "route", "train-small*", "slow"]).succeeded();
    for (args, queue) in [
        (&[file.as_str()][..], "ml"),
        (&["train-small"], "slow"),
        (&["--queue", "default", &file], "default"),
        (&[&cluster.guest(&guest::says("hello"))], "default"),
    ] {
        let report = cluster.json(&[&["submit", "--wait"], args].concat());
        assert_eq!((&report["state"], &report["spec"]["queue"]), (&"succeeded".into(), &queue.into()), "{args:?}");
    }
    let routes = cluster.json(&["queue", "routes"]);
    assert_eq!(routes, serde_json::json!({ "train-*": "ml", "train-small*": "slow" }));
    cluster.wasmjob(&["queue", "route", "--rm", "train-*"]).succeeded();
    assert_eq!(cluster.json(&["submit", "--wait", &file])["spec"]["queue"], "default");
}

#[test]
fn what_makes_no_sense_about_queues_is_refused() {
    let cluster = Cluster::shared();
    for (args, named) in [
        (&["pause", "nosuch"][..], "there are default"),
        (&["purge", "nosuch"], "nosuch"),
        (&["rate", "default", "fast"], "10/s"),
        (&["rate", "default", "0/s"], "queue pause"),
        (&["rate", "nosuch", "1/s"], "nosuch"),
        (&["route", "x*", "nosuch"], "nosuch"),
        (&["route", "x*", "No Such"], "queue name"),
        (&["route", "--rm", "x*"], "queue routes"),
        (&["route", "x*"], "QUEUE"),
        (&["route", "", "default"], "fits no component"),
    ] {
        cluster.wasmjob(&[&["queue"], args].concat()).ended(2).saying(&[named]);
    }
}

/// Files that a queue's stream was in: the server counts them.
fn stream_files(cluster: &Cluster, queue: &str) -> Vec<String> {
    let folder = cluster.path("data/jetstream/$G/streams").join(names::queue_stream(queue)).join("msgs");
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".blk")).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_runs_empty_keeps_its_file_and_one_message_that_is_no_job() {
    let cluster = Cluster::up();
    let hello = cluster.guest(&guest::says("hello"));
    let broker = cluster.connect().await;
    let stream = broker.jetstream.get_stream(names::queue_stream("default")).await.unwrap();
    let anchored = async |last: u64| {
        cluster.wasmjob(&["submit", "--wait", &hello]).succeeded();
        let alone = async {
            loop {
                let state = stream.get_info().await.unwrap().state;
                if state.messages == 1 && state.last_sequence >= last {
                    return state.last_sequence;
                }
            }
        };
        timeout(PATIENCE, alone).await.expect("the anchor stays, alone")
    };
    let first = anchored(2).await;
    let files = stream_files(&cluster, "default");
    // The node that comes after this one sends it once more, which replaces it.
    cluster.kill(u32::try_from(cluster.node("n1")["pid"].as_u64().unwrap()).unwrap());
    let second = anchored(first + 2).await;
    anchored(second + 1).await;
    assert_eq!(stream_files(&cluster, "default"), files);
    let anchor = stream.get_last_raw_message_by_subject(&names::anchor("default")).await.unwrap();
    assert_eq!(anchor.sequence, second);
    let left = row(&cluster, "default");
    assert_eq!((&left["waiting"], &left["running"], &left["later"]), (&0.into(), &0.into(), &0.into()), "{left}");
}

/// With fewer, the slots that are free ask themselves, and an acknowledgement that asks as well takes longer.
#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_asks_for_the_next_job_while_as_many_wait_as_there_are_slots() {
    let cluster = Cluster::up_with(&["--slots", "80"]);
    let broker = cluster.connect().await;
    let guest = cluster.guest(&guest::exits(0));
    let asking = async |count: usize| {
        cluster.wasmjob(&["queue", "pause", "default"]).succeeded();
        let mut acks = broker.client.subscribe("$JS.ACK.>").await.unwrap();
        broker.client.flush().await.unwrap();
        let all = ["submit", "--limit", "memory=1MiB", "--wait", "--repeat", &count.to_string(), &guest];
        let waiting = cluster.start(&all);
        until("all wait", || (cluster.json(&["queue", "ls"])[0]["waiting"] == count).then_some(()));
        cluster.wasmjob(&["queue", "resume", "default"]).succeeded();
        waiting.finish().succeeded();
        let (mut ended, mut asking) = (0, 0);
        while ended < count {
            let ack = timeout(PATIENCE, acks.next()).await.expect("every job is acknowledged").unwrap();
            ended += usize::from(ack.payload.is_empty() || ack.payload.starts_with(b"+ACK"));
            ended += usize::from(ack.payload.starts_with(b"+NXT"));
            asking += usize::from(ack.payload.starts_with(b"+NXT"));
        }
        asking
    };
    assert_eq!(asking(75).await, 0);
    assert!(asking(400).await > 0);
}

/// For each message that it erases, the server writes a file of several megabytes anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_taken_out_of_a_queue_is_not_erased() {
    let cluster = Cluster::up();
    let broker = cluster.connect().await;
    let mut taken_out = broker.client.subscribe("$JS.API.STREAM.MSG.DELETE.*").await.unwrap();
    broker.client.flush().await.unwrap();
    cluster.wasmjob(&["queue", "pause", "default"]).succeeded();
    let guest = cluster.guest(&guest::exits(0));
    let cancelled = cluster.submit(&[&guest]);
    cluster.submit(&[&guest]);
    until("both wait", || (row(&cluster, "default")["waiting"] == 2).then_some(()));
    cluster.wasmjob(&["cancel", &cancelled]).succeeded();
    cluster.wasmjob(&["queue", "purge", "default"]).succeeded();
    for _ in 0..2 {
        let request = timeout(PATIENCE, taken_out.next()).await.expect("both are taken out").unwrap();
        let request: Value = serde_json::from_slice(&request.payload).unwrap();
        assert_eq!(request["no_erase"], true, "{request}");
    }
    assert_eq!(row(&cluster, "default")["waiting"], 0);
}
