//! `wasmjob run`: one attempt in this process, without a cluster.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use clap::Args;
use time::OffsetDateTime;
use tokio::runtime::Handle;
use wasmjob_runtime::{
    AccessError, Artifacts, Attempt, AttemptReport, Blob, Digest, Limits, LogSink, LogStream, Outcome, Sandbox,
    SandboxConfig, Signals, millis,
};

use super::{
    CliError, Exit, Global,
    common::{JobArgs, as_file, read_file},
    render,
};
use crate::{
    artifacts::{self, ArtifactStore, Cache},
    config::Config,
    folders, lifecycle,
    node_artifacts::NodeArtifacts,
    wire::{OutputValue, Report, new_job_id, timestamp},
};

/// Bytes of compiled code that one run keeps in memory.
const CODE_BYTES_MAX: usize = 256 << 20;
/// Output that a report carries itself; more is stored as an artifact on this machine.
const INLINE_BYTES_MAX: u64 = 1 << 20;

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
    let component = component(&args.job.component, &config).await?;
    let input = args.job.input()?;
    let signals = Arc::new(Signals::default());
    tokio::spawn(cancel_on_interrupt(signals.clone()));
    let (attempt, report) = make_attempt(&config, &args.job, component, input, limits, signals).await?;
    let output = attempt.output.clone();
    let report = finish(&config, report, attempt).await?;
    if global.json {
        render::json(&report)?;
    } else {
        if let Some(output) = &output {
            print(output)?;
        }
        render::talk(render::cost(&report));
    }
    conclude(global, &report)
}

fn conclude(global: &Global, report: &Report) -> Result<Exit, CliError> {
    if report.outcome.as_ref().is_some_and(Outcome::is_ok) {
        return Ok(Exit::Done);
    }
    if !global.json {
        render::talk(format!("error: {}", render::failure(report)));
    }
    Ok(Exit::Failed)
}

/// Two Ctrl-C: the first asks the job to end, the second ends the process.
async fn cancel_on_interrupt(signals: Arc<Signals>) {
    if tokio::signal::ctrl_c().await.is_ok() {
        signals.cancel();
    }
    if tokio::signal::ctrl_c().await.is_ok() {
        std::process::exit(130);
    }
}

async fn component(component: &str, config: &Config) -> Result<Blob, CliError> {
    if let Some(path) = as_file(component)? {
        return read_file(path);
    }
    let Ok(digest) = component.parse::<Digest>() else {
        return Err(CliError::usage(format!("there is no file `{component}`"))
            .hint("`run` works without a cluster: give it a file"));
    };
    let (store, cache) = (local_store(config).await?, local_cache(config)?);
    Ok(cache.fetch(&store, &digest).await?)
}

async fn make_attempt(
    config: &Config,
    args: &JobArgs,
    component: Blob,
    input: Blob,
    limits: Limits,
    signals: Arc<Signals>,
) -> Result<(AttemptReport, Report), CliError> {
    let mut report = Report { attempt: 1, ..Report::queued(new_job_id()) };
    let folder = config.data.join("run");
    folders::private(&folder).map_err(|error| CliError::platform(format!("{}: {error}", folder.display())))?;
    let sandbox = Sandbox::new(SandboxConfig {
        slots: 1,
        code_dir: Some(folder.join("code")),
        code_bytes_max: CODE_BYTES_MAX,
        spill_dir: folder,
    })
    .map_err(CliError::platform)?;
    report.times.started = timestamp(OffsetDateTime::now_utc());
    let bar = render::spinner("compiling");
    let prepared = sandbox.prepare(component.digest(), async { Ok(component) }).await;
    bar.finish_and_clear();
    let (component, compiled) = match prepared {
        Ok(prepared) => prepared,
        Err(outcome) => return Ok((AttemptReport::unstarted(*outcome), report)),
    };
    let attempt = Attempt {
        component,
        job: report.job.to_string(),
        number: 1,
        input,
        args: args.args(),
        env: args.env().into_iter().collect(),
        limits,
        artifacts: Arc::new(LocalArtifacts { config: config.clone(), opened: OnceLock::new() }),
        log: Arc::new(ToStderr),
        signals,
    };
    let mut ended = sandbox.start(attempt, ()).report().await;
    ended.usage.compile_ms = millis(compiled);
    Ok((ended, report))
}

/// The report of the attempt, with its output in it or stored beside it.
async fn finish(config: &Config, mut report: Report, mut ended: AttemptReport) -> Result<Report, CliError> {
    let output = match ended.output.take() {
        None => None,
        Some(blob) if blob.size() <= INLINE_BYTES_MAX => {
            let bytes = blob.to_bytes(INLINE_BYTES_MAX).map_err(CliError::platform)?;
            Some(OutputValue::inline(&bytes))
        }
        Some(blob) => {
            local_store(config).await?.put(&blob).await?;
            Some(OutputValue::Artifact(blob.digest()))
        }
    };
    report.times.finished = timestamp(OffsetDateTime::now_utc());
    report.usage.compile_ms = ended.usage.compile_ms;
    Ok(lifecycle::on_attempt_end(report, ended, output))
}

/// Prints a blob piece by piece.
pub(crate) fn print(blob: &Blob) -> Result<(), CliError> {
    let mut offset = 0;
    while offset < blob.size() {
        let piece = blob.read_at(offset, wasmjob_runtime::GROUP_BYTES).map_err(CliError::platform)?;
        offset += piece.len() as u64;
        render::data(&piece)?;
    }
    Ok(())
}

async fn local_store(config: &Config) -> Result<Arc<dyn ArtifactStore>, CliError> {
    Ok(artifacts::open(config.artifacts.url.as_deref(), None, &config.data.join("artifacts")).await?)
}

fn local_cache(config: &Config) -> Result<Cache, CliError> {
    Ok(Cache::open(&config.data.join("run").join("cache"), config.node.cache)?)
}

/// What the job logs goes to stderr as it comes.
struct ToStderr;

impl LogSink for ToStderr {
    fn write(&self, stream: LogStream, bytes: &[u8]) {
        use std::io::Write;
        let mut stderr = std::io::stderr().lock();
        // There is nobody to tell if stderr is gone.
        let _ = match stream {
            LogStream::Stderr => stderr.write_all(bytes),
            level => writeln!(stderr, "{level}: {}", String::from_utf8_lossy(bytes)),
        };
    }
}

/// Artifacts in a folder on this machine, opened when a job first asks for one.
struct LocalArtifacts {
    config: Config,
    opened: OnceLock<NodeArtifacts>,
}

impl LocalArtifacts {
    async fn open_store(&self) -> Result<&NodeArtifacts, AccessError> {
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        let unavailable = |error: CliError| AccessError::Unavailable(format!("{error:?}"));
        let store = local_store(&self.config).await.map_err(unavailable)?;
        let cache = local_cache(&self.config).map_err(unavailable)?;
        Ok(self.opened.get_or_init(|| NodeArtifacts::new(store, cache, Handle::current())))
    }
}

#[async_trait]
impl Artifacts for LocalArtifacts {
    async fn open(&self, digest: &Digest) -> Result<Blob, AccessError> {
        self.open_store().await?.open(digest).await
    }

    async fn publish(&self, blob: &Blob) -> Result<(), AccessError> {
        self.open_store().await?.publish(blob).await
    }
}
