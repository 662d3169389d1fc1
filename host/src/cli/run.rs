//! `wasmjob run`: one attempt in this process, without a cluster.

use std::{sync::Arc, time::Duration};

use clap::Args;
use wasmjob_runtime::{AccessError, Artifacts, Blob, Digest};

use super::{
    CliError, Exit, Global,
    common::{JobArgs, as_file, read_component},
    here::{self, Wanted},
    local_artifacts::LocalArtifacts,
};
use crate::grants::{NoChildren, NoNames, Offers, Services};

/// Arguments of `run`.
#[derive(Args)]
#[command(after_help = "\
The output of the job goes to stdout, what it cost to stderr; --json prints the report instead.
Example: wasmjob run wordcount.wasm --input @text.txt --limit memory=64MiB --limit wall=5s")]
pub(crate) struct RunArgs {
    #[command(flatten)]
    job: JobArgs,
}

/// Runs the component and prints its output or its report.
pub(crate) async fn run(global: &Global, args: RunArgs) -> Result<Exit, CliError> {
    let config = global.load(Vec::new())?;
    let (_, limits) = args.job.limits(&config)?;
    let artifacts = Arc::new(LocalArtifacts::new(&config, &here::scratch(&config)?));
    let component = component(&args.job.component, &artifacts).await?;
    // An input over its limit has a report too, which the sandbox writes.
    let input = args.job.input(u64::MAX)?;
    let offers = Offers::of_operator(&config);
    let spec = args.job.spec(&offers)?;
    let services = Services { names: Arc::new(NoNames), children: Arc::new(NoChildren) };
    let grants = offers.resolve(&spec, services).await?;
    let wanted = Wanted { spec, number: 1, component, input, limits, grants, soft: Duration::MAX };
    let (report, _) = here::attempt(global, &config, artifacts, wanted).await?;
    Ok(here::conclude(global, &report))
}

async fn component(component: &str, artifacts: &LocalArtifacts) -> Result<Blob, CliError> {
    if let Some(path) = as_file(component)? {
        return read_component(path);
    }
    let Ok(digest) = component.parse::<Digest>() else {
        return Err(CliError::usage(format!("there is no file `{component}`"))
            .hint("`run` works without a cluster: give it a file, or the digest of an artifact on this machine"));
    };
    artifacts.open(&digest).await.map_err(|error| match error {
        AccessError::NotFound(text) => CliError::usage(text).hint("`run` looks on this machine only; give it a file"),
        error => CliError::platform(error),
    })
}
