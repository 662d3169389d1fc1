//! `wasmjob replay`: an attempt of a job of the cluster once more, in this process.

use std::sync::Arc;

use clap::Args;
use wasmjob_runtime::{AccessError, Artifacts, Blob, Digest, Limits};

use super::{
    CliError, Exit, Global,
    common::Cluster,
    get,
    here::{self, Wanted},
    local_artifacts::LocalArtifacts,
    render,
};
use crate::{
    grants::{ClusterNames, NoChildren, Offers, Services},
    limit_values,
    wire::{Input, JobId, JobSpec, OutputValue, Report},
};

/// Arguments of `replay`.
#[derive(Args)]
#[command(after_help = "\
The same component, input, arguments and limits, with the folders, addresses and secrets of this machine. Nothing is
stored: the job stays as it was. A deterministic job does exactly what it did; others see another time and other random
numbers. It submits no children. The exit code says how the attempt ended now; whether that is what it was before, stderr
says.
Example: wasmjob replay 01m892cg0pdwtyxwgxcjbbv3v8")]
pub(crate) struct ReplayArgs {
    /// The job's id
    job: JobId,
}

/// Makes the attempt, prints its output or its report, and says whether it was the same.
pub(crate) async fn replay(global: &Global, args: ReplayArgs) -> Result<Exit, CliError> {
    let cluster = Cluster::connect(global).await?;
    let past = get::find(&cluster, args.job).await?;
    let Some(spec) = past.spec.as_deref().cloned() else {
        return Err(CliError::usage(format!("what job {} was to do is not known: it was no valid job spec", args.job)));
    };
    if past.state.is_terminal() && past.attempt == 0 {
        return Err(CliError::usage(format!(
            "job {} ended before it ever started: there is nothing to make again",
            args.job
        ))
        .hint("`wasmjob retry` has it again; `wasmjob run` runs a component here"));
    }
    if !past.state.is_terminal() {
        let state = past.state.name();
        return Err(CliError::usage(format!("no attempt of job {} has ended for good: it is {state}", args.job))
            .hint("`wasmjob result --wait` waits for that; `wasmjob run` runs a component here"));
    }
    let config = &cluster.config;
    let jetstream = cluster.broker.jetstream.clone();
    let artifacts = Arc::new(LocalArtifacts::of_cluster(config, &here::scratch(config)?, jetstream));
    let component = fetch(&artifacts, digest(&cluster, &spec).await?, "component").await?;
    let input = input(&artifacts, &spec).await?;
    let services = Services {
        names: Arc::new(ClusterNames::new(Arc::new(cluster.broker.clone()))),
        children: Arc::new(NoChildren),
    };
    let grants = Offers::of(config).resolve(&spec, services).await?;
    let limits = limits(&cluster, &spec)?;
    let wanted =
        Wanted { number: past.attempt.max(1), soft: spec.soft(limits.wall_ms), limits, spec, component, input, grants };
    let (report, output) = here::attempt(global, config, artifacts, wanted).await?;
    tell(global.json, past.attempt, &compare(&past, &report, output.as_ref()));
    Ok(here::conclude(global, &report))
}

/// The limits that the job had, which this machine may not allow others.
fn limits(cluster: &Cluster, spec: &JobSpec) -> Result<Limits, CliError> {
    let (defaults, _) = limit_values::limits(&cluster.config)?;
    Ok(spec.limits.resolve(&defaults, &Limits::ceilings())?)
}

/// The component of the job. One that was submitted by name is the one of that name now.
async fn digest(cluster: &Cluster, spec: &JobSpec) -> Result<Digest, CliError> {
    match spec.component.parse() {
        Ok(digest) => Ok(digest),
        Err(_) => cluster.stored(&spec.component).await,
    }
}

async fn input(artifacts: &LocalArtifacts, spec: &JobSpec) -> Result<Blob, CliError> {
    match &spec.input {
        Input::Artifact(digest) => fetch(artifacts, *digest, "input").await,
        carried => Ok(Blob::from_bytes(carried.bytes()?.unwrap_or_default())),
    }
}

async fn fetch(artifacts: &LocalArtifacts, digest: Digest, what: &str) -> Result<Blob, CliError> {
    let bar = render::spinner(format!("fetching the {what}"));
    let fetched = artifacts.open(&digest).await;
    bar.finish_and_clear();
    fetched.map_err(|error| match error {
        AccessError::NotFound(text) => CliError::usage(format!("the {what} of the job is gone: {text}")),
        error => CliError::platform(error),
    })
}

/// What was the same in the attempt that was made now.
struct Comparison {
    end: bool,
    output: bool,
    fuel: bool,
}

fn compare(past: &Report, now: &Report, output: Option<&Blob>) -> Comparison {
    let was = match &past.output {
        Some(OutputValue::Artifact(digest)) => Some(*digest),
        Some(carried) => carried.bytes().map(|bytes| Digest::of(&bytes)),
        None => None,
    };
    let kind = |report: &Report| report.outcome.as_ref().map(|outcome| outcome.kind);
    Comparison {
        end: kind(past) == kind(now),
        output: was == output.map(Blob::digest),
        fuel: past.usage.fuel == now.usage.fuel,
    }
}

fn tell(json: bool, attempt: u32, Comparison { end, output, fuel }: &Comparison) {
    if json {
        let same = serde_json::json!({ "attempt": attempt, "same": { "end": end, "output": output, "fuel": fuel } });
        return render::talk(same.to_string());
    }
    let [end, output, fuel] = [end, output, fuel].map(|same| if *same { "the same" } else { "NOT the same" });
    render::talk(format!("compared with attempt {attempt}: {end} end, {output} output, {fuel} fuel"));
}
