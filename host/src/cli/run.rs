//! `wasmjob run`: one attempt in this process, without a cluster.

use std::{path::Path, sync::Arc, time::Duration};

use clap::Args;
use time::OffsetDateTime;
use wasmjob_runtime::{
    AccessError, Artifacts, Attempt, AttemptReport, Blob, Digest, LogSink, LogStream, Outcome, Prepared, Sandbox,
    SandboxConfig, Signals, millis,
};

use super::{
    CliError, Exit, Global,
    common::{JobArgs, as_file, read_file},
    local_artifacts::LocalArtifacts,
    render,
};
use crate::{
    lifecycle, private,
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
    args.job.check_available()?;
    let (_, limits) = args.job.limits(&config)?;
    let scratch = config.data.join("run");
    private::folder(&scratch).map_err(|error| CliError::platform(format!("{}: {error}", scratch.display())))?;
    let artifacts = Arc::new(LocalArtifacts::new(&config, &scratch));
    let component = component(&args.job.component, &artifacts).await?;
    let input = args.job.input()?;
    let signals = Arc::new(Signals::default());
    tokio::spawn(cancel_on_interrupt(signals.clone()));
    let mut report = Report { attempt: 1, ..Report::queued(new_job_id()) };
    report.times.started = timestamp(OffsetDateTime::now_utc());
    let attempt = |component| Attempt {
        component,
        job: report.job.to_string(),
        number: 1,
        input,
        args: args.job.args(),
        env: args.job.env().into_iter().collect(),
        limits,
        soft: Duration::MAX,
        artifacts: artifacts.clone(),
        log: Arc::new(ToStderr),
        signals: signals.clone(),
    };
    let ended = make_attempt(&scratch, component, &signals, attempt).await?;
    let output = ended.output.clone();
    let report = finish(&artifacts, report, ended).await?;
    if global.json {
        render::json(&report)?;
    } else {
        if let Some(output) = &output {
            print(output)?;
        }
        render::tell_cost(&report);
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

async fn component(component: &str, artifacts: &LocalArtifacts) -> Result<Blob, CliError> {
    if let Some(path) = as_file(component)? {
        return read_file(path);
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

/// Compiles the component and runs it once.
async fn make_attempt(
    scratch: &Path,
    component: Blob,
    signals: &Signals,
    attempt: impl FnOnce(Arc<Prepared>) -> Attempt,
) -> Result<AttemptReport, CliError> {
    let code = scratch.join("code");
    private::folder(&code).map_err(|error| CliError::platform(format!("{}: {error}", code.display())))?;
    let sandbox = Sandbox::new(SandboxConfig {
        slots: 1,
        code_dir: Some(code),
        code_bytes_max: CODE_BYTES_MAX,
        spill_dir: scratch.to_owned(),
    })
    .map_err(CliError::platform)?;
    let bar = render::spinner("compiling");
    let prepared = tokio::select! {
        prepared = sandbox.prepare(component.digest(), async { Ok(component) }) => prepared,
        () = signals.cancelled() => Err(Box::new(Outcome::cancelled())),
    };
    bar.finish_and_clear();
    let (component, compiled) = match prepared {
        Ok(prepared) => prepared,
        Err(outcome) => return Ok(AttemptReport::unstarted(*outcome)),
    };
    let mut ended = sandbox.start(attempt(component), ()).report().await;
    ended.usage.compile_ms = millis(compiled);
    Ok(ended)
}

/// The report of the attempt, with its output in it or stored beside it.
async fn finish(artifacts: &LocalArtifacts, mut report: Report, mut ended: AttemptReport) -> Result<Report, CliError> {
    let output = match ended.output.take() {
        None => None,
        Some(blob) if blob.size() <= INLINE_BYTES_MAX => {
            let bytes = blob.to_bytes(INLINE_BYTES_MAX).map_err(CliError::platform)?;
            Some(OutputValue::inline(&bytes))
        }
        Some(blob) => {
            artifacts.store().await?.put(&blob).await?;
            Some(OutputValue::Artifact(blob.digest()))
        }
    };
    report.times.finished = timestamp(OffsetDateTime::now_utc());
    report.usage.compile_ms = ended.usage.compile_ms;
    Ok(lifecycle::on_attempt_end(report, ended, output))
}

/// Prints a blob piece by piece.
fn print(blob: &Blob) -> Result<(), CliError> {
    let mut offset = 0;
    while offset < blob.size() {
        let piece = blob.read_at(offset, wasmjob_runtime::GROUP_BYTES).map_err(CliError::platform)?;
        offset += piece.len() as u64;
        render::data(&piece)?;
        if offset >= blob.size() {
            render::end_line(&piece)?;
        }
    }
    Ok(())
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
