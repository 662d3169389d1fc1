//! Jobs that recur: once for every tick, whoever is there.

use std::collections::HashSet;

use rustix::process::Signal;
use serde_json::Value;
use time::OffsetDateTime;
use wasmjob_host::{
    queue::{Tick, names},
    wire::timestamp,
};
use wasmjob_tests::{Cluster, Seen, guest, until};

fn shown(cluster: &Cluster, name: &str) -> Value {
    cluster.json(&["schedule", "show", name])
}

/// The ticks there were, once there are so many.
fn until_ticked(cluster: &Cluster, name: &str, count: usize) -> Vec<Value> {
    until(&format!("{name} has ticked {count} times"), || {
        let ticks = shown(cluster, name)["history"].as_array()?.clone();
        (ticks.len() >= count).then_some(ticks)
    })
}

/// The second of the day in a time such as `2026-01-31T07:30:00.5Z`.
fn second(time: &Value) -> u32 {
    let clock = time.as_str().unwrap().split('T').nth(1).unwrap();
    clock[..8].split(':').fold(0, |sum, part| sum * 60 + part.parse::<u32>().unwrap())
}

/// Checks that these are ticks of every second, and that each had one job.
fn assert_every_second(ticks: &[Value]) -> HashSet<String> {
    for pair in ticks.windows(2) {
        let apart = (second(&pair[1]["due"]) + 86_400 - second(&pair[0]["due"])) % 86_400;
        assert_eq!(apart, 1, "{pair:?}");
    }
    let jobs: HashSet<String> = ticks.iter().map(|tick| tick["job"].as_str().unwrap().to_owned()).collect();
    assert_eq!(jobs.len(), ticks.len(), "{ticks:?}");
    jobs
}

#[tokio::test(flavor = "multi_thread")]
async fn each_tick_has_one_job_however_many_nodes_there_are_and_whichever_dies() {
    let cluster = Cluster::up_with(&["--listen", "127.0.0.1"]);
    let node = cluster.join("n2", &["--slots", "2"]);
    let seen = Seen::listen(&cluster.connect().await).await;
    let guest = cluster.guest(&guest::says("hello"));
    cluster.wasmjob(&["schedule", "add", "often", &guest, "--cron", "* * * * * *", "--missed", "all"]).succeeded();
    until_ticked(&cluster, "often", 3);
    cluster.kill(node.process.pid());
    let ticks = until_ticked(&cluster, "often", 7);
    let jobs = assert_every_second(&ticks);
    for job in &jobs {
        assert_eq!(cluster.until_state(job, "succeeded")["attempt"], 1);
        assert_eq!(seen.ends(job), ["succeeded"]);
    }
}

#[test]
fn after_an_outage_every_missed_tick_runs_once_and_in_order() {
    let mut cluster = Cluster::up();
    // Each takes a while: the others come due meanwhile, and are not left out for that.
    let guest = cluster.guest(&guest::sleeps_ms(400));
    let add = ["schedule", "add", "often", &guest, "--every", "1s", "--missed", "all"];
    cluster.wasmjob(&add).succeeded();
    let before = until_ticked(&cluster, "often", 2);
    let last = second(&before.last().unwrap()["due"]);
    cluster.process().signal(Signal::INT);
    cluster.process().until_it_ends();
    until("some ticks are missed", || {
        let now = second_now();
        ((now + 86_400 - last) % 86_400 >= 4).then_some(())
    });
    let back = timestamp(OffsetDateTime::now_utc()).unwrap();
    cluster.up_again();
    let mut ticks = until_ticked(&cluster, "often", before.len() + 6);
    // Those after it are left out while one of these still runs.
    ticks.retain(|tick| tick["due"].as_str().unwrap()[..19] < back[..19]);
    assert!(ticks.len() >= before.len() + 3, "{ticks:?}");
    assert_every_second(&ticks);
    assert!(ticks.iter().any(|tick| tick["lag_ms"].as_u64().unwrap() > 1_000), "{ticks:?}");
    let times = |tick: &Value| {
        let job = cluster.until_state(tick["job"].as_str().unwrap(), "succeeded");
        ["started", "finished"].map(|time| job["times"][time].as_str().unwrap().to_owned())
    };
    let times: Vec<_> = ticks.iter().map(times).collect();
    for pair in times.windows(2) {
        assert!(pair[0][1] <= pair[1][0], "one began before the one before it had ended: {pair:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_that_lost_its_tick_gets_one() {
    let cluster = Cluster::up();
    let (broker, guest) = (cluster.connect().await, cluster.guest(&guest::says("hello")));
    cluster.wasmjob(&["schedule", "add", "replaced", &guest, "--every", "1h"]).succeeded();
    let kept = broker.schedule("replaced").await.unwrap().unwrap();
    assert!(broker.has_tick("replaced", kept.revision).await.unwrap());
    // Whoever handled the last tick of the definition before sends the next one only now.
    let due = kept.schedule.next(None).unwrap();
    broker.send_tick(&Tick { schedule: "replaced".into(), revision: kept.revision - 1, due }).await.unwrap();
    assert!(!broker.has_tick("replaced", kept.revision).await.unwrap());
    // One that cannot be read, as one of a newer version, keeps no other from being looked after, and can be removed.
    let bucket = broker.jetstream.get_key_value(names::SCHEDULES).await.unwrap();
    bucket.put(names::schedule_key("newer"), r#"{"v":1,"name":"newer","from_the_future":true}"#.into()).await.unwrap();
    let listed = cluster.wasmjob(&["schedule", "ls"]).succeeded().saying(&["newer", "from_the_future"]);
    assert!(listed.text().contains("replaced"), "{}", listed.text());
    // A node looks when it starts, and every 30 s.
    let pid = cluster.node("n1")["pid"].clone();
    cluster.kill(u32::try_from(pid.as_u64().unwrap()).unwrap());
    until("the node is there again", || (cluster.node("n1")["pid"] != pid).then_some(()));
    until("it has one", || (cluster.metric("n1", r#"wasmjob_reconciled_total{kind="tick"}"#) == 1.0).then_some(()));
    assert!(broker.has_tick("replaced", kept.revision).await.unwrap());
    cluster.wasmjob(&["schedule", "rm", "newer"]).succeeded();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_who_decide_about_a_tick_one_is_told_that_the_other_did() {
    let broker = Cluster::shared().connect().await;
    let mut one = broker.history("contested").await.unwrap();
    let mut other = broker.history("contested").await.unwrap();
    broker.keep_history("contested", &mut one).await.unwrap();
    assert!(broker.keep_history("contested", &mut other).await.is_err());
    broker.keep_history("contested", &mut one).await.unwrap();
}

/// The second of the day.
fn second_now() -> u32 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u32::try_from(since.as_secs() % 86_400).unwrap()
}

#[test]
fn a_schedule_is_shown_rests_goes_on_and_ends() {
    let cluster = Cluster::up();
    let guest = cluster.guest(&guest::says("hello"));
    let zone = ["--cron", "0 3 * * *", "--tz", "Europe/Berlin"];
    let add = ["schedule", "add", "nightly", &guest, "--priority", "7", "--jitter", "30s"];
    let added = cluster.wasmjob(&[&add[..], &zone].concat());
    added.succeeded().saying(&["ticks next at", "03:00:00"]);
    let schedule = shown(&cluster, "nightly");
    assert_eq!(schedule["next"].as_array().unwrap().len(), 5, "{schedule}");
    assert_eq!(schedule["schedule"]["job"]["priority"], 7);
    let text = cluster.wasmjob(&["schedule", "show", "nightly"]).succeeded().text().to_owned();
    assert!(text.contains("overlap    skip") && text.contains("jitter     up to 30s"), "{text}");
    cluster.wasmjob(&["schedule", "pause", "nightly"]).succeeded();
    assert!(shown(&cluster, "nightly")["next"].as_array().unwrap().is_empty());
    let job = cluster.wasmjob(&["schedule", "run-now", "nightly"]).succeeded().text().trim().to_owned();
    cluster.until_state(&job, "succeeded");
    cluster.wasmjob(&["schedule", "resume", "nightly"]).succeeded();
    assert_eq!(cluster.json(&["schedule", "ls"])[0]["next"], schedule["next"][0]);
    cluster.wasmjob(&["schedule", "rm", "nightly"]).succeeded();
    assert_eq!(cluster.json(&["schedule", "ls"]), Value::Array(Vec::new()));
    // The name is free again.
    cluster.wasmjob(&[&["schedule", "add", "nightly", &guest][..], &zone].concat()).succeeded();
}

#[test]
fn a_tick_is_left_out_or_replaces_the_job_before_as_was_asked() {
    let cluster = Cluster::up();
    let guest = cluster.guest(&guest::sleeps_ms(60_000));
    for (name, overlap) in [("patient", "skip"), ("eager", "replace")] {
        cluster.wasmjob(&["schedule", "add", name, &guest, "--every", "1s", "--overlap", overlap]).succeeded();
    }
    let skipped = until("a tick was left out", || {
        let ticks = until_ticked(&cluster, "patient", 2);
        ticks.iter().find(|tick| tick["job"].is_null()).cloned()
    });
    assert!(skipped["skipped"].as_str().unwrap().contains("has not ended"), "{skipped}");
    let replaced = until_ticked(&cluster, "eager", 2)[0]["job"].as_str().unwrap().to_owned();
    cluster.until_state(&replaced, "cancelled");
    for name in ["patient", "eager"] {
        cluster.wasmjob(&["schedule", "rm", name]).succeeded();
    }
}

#[test]
fn what_can_never_tick_is_refused() {
    let cluster = Cluster::shared();
    let guest = cluster.guest(&guest::says("hello"));
    for (flags, named) in [
        (&["--cron", "0 0 30 2 *"][..], "never comes"),
        (&["--cron", "61 * * * *"], "61 * * * *"),
        (&["--cron", "0 3 * * *", "--tz", "Mars/Olympus"], "Mars/Olympus"),
        (&["--every", "10ms"], "1s to 366d"),
        (&["--every", "1m", "--overlap", "sometimes"], "skip, queue and replace"),
        (&["--every", "1m", "--jitter", "48h"], "more than"),
        (&[], "--cron"),
        (&["--cron", "0 3 * * *", "--every", "1m"], "cannot be used with"),
    ] {
        cluster.wasmjob(&[&["schedule", "add", "wrong", &guest], flags].concat()).ended(2).saying(&[named]);
    }
    cluster.wasmjob(&["schedule", "add", "Wrong!", &guest, "--every", "1m"]).ended(2).saying(&["a-z"]);
    cluster.wasmjob(&["schedule", "rm", "nobody"]).ended(2).saying(&["no schedule `nobody`", "hint: "]);
    let once = ["schedule", "add", "once", &guest, "--every", "1h"];
    cluster.wasmjob(&once).succeeded();
    cluster.wasmjob(&once).ended(2).saying(&["already", "--replace"]);
    cluster.wasmjob(&[&once[..], &["--replace"]].concat()).succeeded();
    cluster.wasmjob(&["schedule", "rm", "once"]).succeeded();
}
