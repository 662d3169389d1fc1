//! `wasmjob schedule`: jobs that recur.

use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::json;

use super::{
    CliError, Exit, Global,
    common::{Cluster, JobArgs, as_file, check_is_wasm},
    placement::PlacementArgs,
    render, submit,
};
use crate::{
    queue::Kept,
    schedule::{Calendar, CalendarError, JITTER_MS_MAX, Missed, Overlap, Schedule, Ticked, When, is_name},
    units::Span,
    wire::{JobSpec, new_job_id},
};

/// Times that are shown ahead.
const SHOWN: usize = 5;

/// Subcommands of `schedule`.
#[derive(Subcommand)]
pub(crate) enum ScheduleCommand {
    /// Have a job recur
    Add(Box<AddArgs>),
    /// List schedules
    Ls,
    /// Show one: its next times, and what became of the last ones
    Show(NameArgs),
    /// End one; jobs that it has submitted go on
    Rm(NameArgs),
    /// Let one rest; ticks meanwhile are not made up for
    Pause(NameArgs),
    /// Let one that rests go on
    Resume(NameArgs),
    /// Submit its job now, beside its ticks, and print the job's id
    RunNow(NameArgs),
}

/// Which schedule.
#[derive(Args)]
pub(crate) struct NameArgs {
    /// Its name
    name: String,
}

/// Arguments of `schedule add`.
#[derive(Args)]
#[command(after_help = "\
Clocks put forward: a daily time that does not exist is the first moment that does. Clocks put back: one that
comes twice is the first of the two. Times within the hours (*/15) leave out what does not exist and go on
through what comes twice.
Example: wasmjob schedule add nightly train.wasm --cron '0 3 * * *' --tz Europe/Berlin --retries 2
Example: wasmjob schedule add poll poll.wasm --every 15m --overlap skip")]
pub(crate) struct AddArgs {
    /// Name of the schedule: 1 to 64 of a-z, 0-9, - and _
    name: String,
    #[command(flatten)]
    job: JobArgs,
    /// When: minute, hour, day of the month, month, day of the week; or six fields, with seconds first
    #[arg(
        long,
        value_name = "PATTERN",
        conflicts_with = "every",
        required_unless_present = "every",
        help_heading = "When it recurs"
    )]
    cron: Option<String>,
    /// Time zone of --cron
    #[arg(long, value_name = "ZONE", default_value = "UTC", conflicts_with = "every", help_heading = "When it recurs")]
    tz: String,
    /// Every so often, such as 15m; counted from now
    #[arg(long, value_name = "TIME", help_heading = "When it recurs")]
    every: Option<Span>,
    /// If the last job has not ended: skip, queue (submit all the same), replace (cancel the last one)
    #[arg(long, value_name = "POLICY", default_value = "skip", help_heading = "When it recurs")]
    overlap: Overlap,
    /// Ticks that nobody was there for: skip, last (run one for all of them), all (each once, in order)
    #[arg(long, value_name = "POLICY", default_value = "last", help_heading = "When it recurs")]
    missed: Missed,
    /// Start up to this much later, differently for each tick
    #[arg(long, value_name = "TIME", default_value = "0s", help_heading = "When it recurs")]
    jitter: Span,
    /// Take the place of a schedule with this name
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    placement: PlacementArgs,
}

impl From<CalendarError> for CliError {
    fn from(error: CalendarError) -> Self {
        let told = CliError::usage(&error);
        match error {
            CalendarError::Pattern { .. } | CalendarError::Never { .. } => {
                told.hint("five fields: minute, hour, day of the month, month, day of the week, such as '0 3 * * *'")
            }
            CalendarError::Zone { .. } | CalendarError::Interval { .. } => told,
        }
    }
}

/// Does what the subcommand says.
pub(crate) async fn schedule(global: &Global, command: ScheduleCommand) -> Result<Exit, CliError> {
    let cluster = Cluster::connect(global).await?;
    match command {
        ScheduleCommand::Add(args) => add(global, &cluster, &args).await?,
        ScheduleCommand::Ls => list(global, &cluster).await?,
        ScheduleCommand::Show(args) => show(global, &cluster, &args.name).await?,
        ScheduleCommand::Rm(args) => {
            // Also one of a newer version, which cannot be read here.
            if !cluster.broker.schedule_names().await?.contains(&args.name) {
                return Err(unknown(&args.name));
            }
            cluster.broker.remove_schedule(&args.name).await?;
            tell(global, &args.name, "removed")?;
        }
        ScheduleCommand::Pause(args) => set_paused(global, &cluster, &args.name, true).await?,
        ScheduleCommand::Resume(args) => set_paused(global, &cluster, &args.name, false).await?,
        ScheduleCommand::RunNow(args) => run_now(global, &cluster, &args.name).await?,
    }
    Ok(Exit::Done)
}

async fn find(cluster: &Cluster, name: &str) -> Result<Kept, CliError> {
    cluster.broker.schedule(name).await?.ok_or_else(|| unknown(name))
}

fn unknown(name: &str) -> CliError {
    CliError::usage(format!("there is no schedule `{name}`")).hint("`wasmjob schedule ls` lists them")
}

async fn add(global: &Global, cluster: &Cluster, args: &AddArgs) -> Result<(), CliError> {
    if !is_name(&args.name) {
        return Err(CliError::usage(format!(
            "`{}` is no name for a schedule: 1 to 64 of a-z, 0-9, - and _",
            args.name
        )));
    }
    let jitter_ms = u64::try_from(args.jitter.0.as_millis()).unwrap_or(u64::MAX);
    if jitter_ms > JITTER_MS_MAX {
        let max = Span(Duration::from_millis(JITTER_MS_MAX));
        return Err(CliError::usage(format!("--jitter {} is more than {max}", args.jitter)));
    }
    let when = match (&args.cron, args.every) {
        (Some(pattern), _) => When::Cron { pattern: pattern.trim().to_owned(), tz: args.tz.clone() },
        (None, every) => When::EveryMs(every.map_or(0, |every| u64::try_from(every.0.as_millis()).unwrap_or(u64::MAX))),
    };
    let before = cluster.broker.schedule(&args.name).await?;
    if before.is_some() && !args.replace {
        return Err(CliError::usage(format!("there is a schedule `{}` already", args.name))
            .hint("--replace puts this one in its place; `wasmjob schedule rm` ends it"));
    }
    let now = cluster.broker.now().await?;
    let mut schedule = Schedule {
        v: 1,
        name: args.name.clone(),
        when,
        overlap: args.overlap,
        missed: args.missed,
        jitter_ms,
        paused: false,
        since: now,
        job: JobSpec::new(new_job_id(), String::new()),
    };
    let next = schedule.calendar()?.after(now)?;
    // Nobody looks at how each of its jobs ends.
    if let Some(file) = as_file(&args.job.component)? {
        check_is_wasm(file)?;
    }
    schedule.job = submit::spec(cluster, &args.job, &args.placement).await?;
    cluster.check_queue(&schedule.job.queue).await?;
    let revision = match before {
        Some(before) => before.revision,
        None => cluster.broker.schedule_revision(&args.name).await?,
    };
    cluster.broker.keep_schedule(&schedule, revision, next).await?;
    match next {
        Some(next) if !global.json => {
            render::talk(format!("schedule {} ticks next at {}", args.name, local(&schedule, next)));
            Ok(())
        }
        _ => tell(global, &args.name, "added"),
    }
}

async fn set_paused(global: &Global, cluster: &Cluster, name: &str, paused: bool) -> Result<(), CliError> {
    let kept = find(cluster, name).await?;
    let word = if paused { "paused" } else { "resumed" };
    if kept.schedule.paused == paused {
        return tell(global, name, &format!("was {word} already"));
    }
    let now = cluster.broker.now().await?;
    let schedule = kept.schedule.paused(paused, now)?;
    let next = if paused { None } else { schedule.calendar()?.after(now)? };
    cluster.broker.keep_schedule(&schedule, kept.revision, next).await?;
    tell(global, name, word)
}

async fn run_now(global: &Global, cluster: &Cluster, name: &str) -> Result<(), CliError> {
    let kept = find(cluster, name).await?;
    let job = JobSpec { id: new_job_id(), ..kept.schedule.job };
    cluster.broker.submit(&job).await?;
    cluster.broker.announce_lane(&job.queue).await;
    match global.json {
        true => render::json(&json!({ "job": job.id })),
        false => render::line(&job.id.to_string()),
    }
}

fn tell(global: &Global, name: &str, what: &str) -> Result<(), CliError> {
    if global.json {
        return render::json(&json!({ "schedule": name }));
    }
    render::talk(format!("schedule {name} {what}"));
    Ok(())
}

/// The next times of a schedule, the first one first.
fn ahead(schedule: &Schedule, last: Option<&Ticked>, count: usize) -> Vec<Timestamp> {
    let Ok(calendar) = schedule.calendar() else { return Vec::new() };
    if schedule.paused {
        return Vec::new();
    }
    let first = schedule.next(last);
    let following = |time: &Timestamp| calendar.after(*time).ok().flatten();
    std::iter::successors(first, following).take(count).collect()
}

/// A time as the clocks of the schedule's zone show it.
fn local(schedule: &Schedule, time: Timestamp) -> String {
    match schedule.calendar() {
        Ok(Calendar::Cron(_, zone)) => time.to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S %:z").to_string(),
        _ => time.strftime("%Y-%m-%d %H:%M:%S Z").to_string(),
    }
}

async fn list(global: &Global, cluster: &Cluster) -> Result<(), CliError> {
    let (mut rows, mut all) = (Vec::new(), Vec::new());
    for name in cluster.broker.schedule_names().await? {
        let schedule = match cluster.broker.schedule(&name).await {
            Ok(Some(kept)) => kept.schedule,
            Ok(None) => continue,
            // The others are shown all the same.
            Err(error) => {
                cluster.warn(error.to_string());
                continue;
            }
        };
        let history = cluster.broker.history(&name).await?;
        let (last, next) = (history.ticks.last(), ahead(&schedule, history.ticks.last(), 1));
        rows.push(vec![
            name,
            if schedule.paused { "paused" } else { "on" }.to_owned(),
            schedule.when.to_string(),
            next.first().map_or("-".into(), |next| local(&schedule, *next)),
            last.map_or("-".into(), |last| local(&schedule, last.due)),
            last.map_or("-".into(), |last| render::millis(ms(last.lag_ms))),
        ]);
        all.push(json!({ "schedule": schedule, "next": next.first(), "last": last }));
    }
    match global.json {
        true => render::json(&all),
        false => render::table(&["schedule", "state", "when", "next", "last", "lag"], &rows),
    }
}

async fn show(global: &Global, cluster: &Cluster, name: &str) -> Result<(), CliError> {
    let Kept { schedule, .. } = find(cluster, name).await?;
    let history = cluster.broker.history(name).await?;
    let next = ahead(&schedule, history.ticks.last(), SHOWN);
    if global.json {
        return render::json(&json!({ "schedule": schedule, "next": next, "history": history.ticks }));
    }
    render::line(&format!("schedule   {name}{}", if schedule.paused { " (paused)" } else { "" }))?;
    render::line(&format!("when       {}", schedule.when))?;
    render::line(&format!("component  {}", schedule.job.component))?;
    render::line(&format!("queue      {}", schedule.job.queue))?;
    render::line(&format!("overlap    {}", schedule.overlap.name()))?;
    render::line(&format!("missed     {}", schedule.missed.name()))?;
    if schedule.jitter_ms > 0 {
        render::line(&format!("jitter     up to {}", Span(Duration::from_millis(schedule.jitter_ms))))?;
    }
    for time in next {
        render::line(&format!("next       {}", local(&schedule, time)))?;
    }
    let rows: Vec<_> = history.ticks.iter().rev().map(|tick| row(&schedule, tick)).collect();
    render::table(&["tick", "lag", "job", "not run because", "missed before"], &rows)
}

fn row(schedule: &Schedule, tick: &Ticked) -> Vec<String> {
    vec![
        local(schedule, tick.due),
        render::millis(ms(tick.lag_ms)),
        tick.job.map_or("-".into(), |job| job.to_string()),
        tick.skipped.clone().unwrap_or("-".into()),
        tick.missed.to_string(),
    ]
}

#[allow(clippy::cast_precision_loss)] // A lag of three hundred thousand years.
fn ms(lag: u64) -> f64 {
    lag as f64
}
