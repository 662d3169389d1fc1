//! What takes longer: a million jobs that wait, a server that writes to its disk before it answers, and
//! three servers that keep a copy of everything each.

use serde::Serialize;

use super::{
    load::{Load, Rate},
    machine::Rig,
    servers::SERVERS,
};
use crate::cli::{CliError, render};

/// Jobs that are submitted and wait.
const QUEUED: u32 = 1_000_000;
/// So many at a time are timed.
const PART: u32 = 100_000;
/// Rounds on the other servers.
const ROUNDS: usize = 3;
/// Jobs in a round where each write waits for the disk.
const SYNCED_JOBS: u32 = 1_000;
/// Where nobody works.
const WAITING: &str = "bench-waiting";

/// What was measured.
#[derive(Serialize)]
pub(super) struct Full {
    submit: Submit,
    sync_always: Jobs,
    replicated: Replicated,
}

/// Submissions while more and more jobs wait.
#[derive(Serialize)]
struct Submit {
    jobs: u32,
    /// Of the first `part`.
    first_per_s: f64,
    /// Of the last `part`.
    last_per_s: f64,
    ratio: f64,
    part: u32,
    /// Of each `part`, in order.
    per_s: Vec<f64>,
    /// Resident memory of the server after each.
    server_rss_bytes: Vec<Option<u64>>,
}

#[derive(Serialize)]
struct Jobs {
    jobs_per_s: f64,
}

#[derive(Serialize)]
struct Replicated {
    servers: usize,
    jobs_per_s: f64,
}

pub(super) async fn measure(rig: &Rig, slots: u32, jobs: u32) -> Result<Full, CliError> {
    let bar = render::spinner(String::new());
    let mut submit = (Vec::new(), Vec::new());
    let load = Load::waiting(rig, WAITING).await?;
    for part in 1..=QUEUED / PART {
        bar.set_message(format!("{} of {} jobs wait", (part - 1) * PART, QUEUED));
        submit.0.push(load.submit(PART).await?);
        submit.1.push(rig.server_rss_bytes());
    }
    bar.set_message("a server that writes to its disk before it answers");
    let synced = Rig::start_synced(slots).await?;
    let sync_always = rate(&synced, SYNCED_JOBS.min(jobs)).await;
    synced.stop().await;
    bar.set_message(format!("{SERVERS} servers"));
    let replicated = Rig::start_replicated(slots).await?;
    let three = rate(&replicated, jobs).await;
    replicated.stop().await;
    bar.finish_and_clear();
    let (first, last) = (submit.0.first().copied().unwrap_or(f64::NAN), submit.0.last().copied().unwrap_or(f64::NAN));
    Ok(Full {
        submit: Submit {
            jobs: QUEUED,
            first_per_s: first,
            last_per_s: last,
            ratio: last / first,
            part: PART,
            per_s: submit.0,
            server_rss_bytes: submit.1,
        },
        sync_always: Jobs { jobs_per_s: sync_always? },
        replicated: Replicated { servers: SERVERS, jobs_per_s: three? },
    })
}

async fn rate(rig: &Rig, jobs: u32) -> Result<f64, CliError> {
    let load = Load::new(rig, super::machine::QUEUE);
    load.noop(jobs / 10).await?;
    let mut rates = Rate::default();
    for _ in 0..ROUNDS {
        rates.add(load.noop(jobs).await?);
    }
    Ok(rates.median())
}

/// Rows for a person.
pub(super) fn rows(full: &Full) -> Vec<Vec<String>> {
    let Full { submit, sync_always, replicated } = full;
    let rss = submit.server_rss_bytes.last().copied().flatten().map_or("-".into(), render::bytes);
    let row = |what: &str, measured: String, ratio: String| vec![what.to_owned(), measured, "-".into(), ratio];
    vec![
        row("submitting the first 100,000 of a million", format!("{:.0}/s", submit.first_per_s), "-".into()),
        row(
            "the last 100,000, against the first",
            format!("{:.0}/s", submit.last_per_s),
            format!("{:.2}", submit.ratio),
        ),
        row("NATS server with a million jobs, memory", rss, "-".into()),
        row("no-op jobs, each write on the disk", format!("{:.0}/s", sync_always.jobs_per_s), "-".into()),
        row("no-op jobs, three servers", format!("{:.0}/s", replicated.jobs_per_s), "-".into()),
    ]
}
