//! `wasmjob run`: one attempt in this process, without a cluster.

use std::{
    io::{IsTerminal, Write},
    path::Path,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use clap::Args;
use time::OffsetDateTime;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    time::timeout,
};
use wasmjob_runtime::{
    AccessError, Artifacts, Attempt, AttemptReport, Blob, Digest, LogSink, LogStream, Outcome, Prepared, Sandbox,
    SandboxConfig, Signals, Variant, millis,
};

use super::{
    CliError, Exit, Global,
    common::{JobArgs, as_file, read_component},
    local_artifacts::LocalArtifacts,
    render,
};
use crate::{
    compiler,
    config::Config,
    grants::{NoChildren, NoNames, Offers, Services},
    lifecycle, limit_values, private,
    wire::{OutputValue, Report, Retry, timestamp},
};

/// Bytes of compiled code that one run keeps in memory.
const CODE_BYTES_MAX: usize = 256 << 20;
/// How long the last lines of the log may take to be written.
const LAST_LINES: Duration = Duration::from_secs(1);
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
    let scratch = config.data.join("run");
    private::folder(&scratch).map_err(|error| CliError::platform(format!("{}: {error}", scratch.display())))?;
    let artifacts = Arc::new(LocalArtifacts::new(&config, &scratch));
    let component = component(&args.job.component, &artifacts).await?;
    // An input over its limit has a report too, which the sandbox writes.
    let input = args.job.input(u64::MAX)?;
    let offers = Offers::of_operator(&config);
    let spec = args.job.spec(&offers)?;
    let services = Services { names: Arc::new(NoNames), children: Arc::new(NoChildren) };
    let grants = offers.resolve(&spec, services).await?;
    let signals = Arc::new(Signals::default());
    tokio::spawn(cancel_on_signals(signals.clone()));
    let mut report = Report { attempt: 1, ..Report::queued(spec.id) };
    report.times.started = timestamp(OffsetDateTime::now_utc());
    let (log, written) = ToStderr::start();
    let attempt = |component| Attempt {
        component,
        job: report.job.to_string(),
        number: 1,
        input,
        args: spec.args,
        env: spec.env.into_iter().collect(),
        limits,
        grants,
        deterministic: spec.deterministic.map(|deterministic| deterministic.seed),
        soft: Duration::MAX,
        artifacts: artifacts.clone(),
        log: Arc::new(log),
        signals: signals.clone(),
    };
    let variant = Variant::of(args.job.is_deterministic());
    let ended = make_attempt(&scratch, &config, component, variant, &signals, attempt).await?;
    // Only so long: stderr may be a pipe that nobody reads.
    let _ = timeout(LAST_LINES, written).await;
    let output = ended.output.clone();
    let report = finish(&artifacts, report, ended, global.json).await?;
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

/// The first signal asks the job to end, the second ends the process.
async fn cancel_on_signals(signals: Arc<Signals>) {
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = kinds.map(signal) else { return };
    let mut next = async || {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    };
    next().await;
    signals.cancel();
    next().await;
    std::process::exit(1);
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

/// Compiles the component and runs it once.
async fn make_attempt(
    scratch: &Path,
    config: &Config,
    component: Blob,
    variant: Variant,
    signals: &Signals,
    attempt: impl FnOnce(Arc<Prepared>) -> Attempt,
) -> Result<AttemptReport, CliError> {
    let code = scratch.join("code");
    private::folder(&code).map_err(|error| CliError::platform(format!("{}: {error}", code.display())))?;
    let limits = limit_values::of_node(config)?;
    let sandbox = Sandbox::new(SandboxConfig {
        slots: 1,
        code_dir: Some(code),
        code_bytes_max: CODE_BYTES_MAX,
        compiler: compiler::of_own(&limits).map_err(CliError::platform)?,
        spill_dir: scratch.to_owned(),
        trusted_keys: config.trusted_keys.clone(),
        limits,
    })
    .map_err(CliError::platform)?;
    let bar = render::spinner("compiling");
    let prepared = tokio::select! {
        prepared = sandbox.prepare(component.digest(), variant, async { Ok(component) }) => prepared,
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

/// The report of the attempt, with its output in it or stored beside it if it is to be kept.
async fn finish(
    artifacts: &LocalArtifacts,
    mut report: Report,
    mut ended: AttemptReport,
    keep_output: bool,
) -> Result<Report, CliError> {
    let output = match ended.output.take().filter(|_| keep_output) {
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
    Ok(lifecycle::on_attempt_end(report, ended, output, &Retry::default(), (OffsetDateTime::now_utc(), 0.0)))
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

/// What the job logs goes to stderr as it comes, on a thread of its own: stderr may be a pipe that
/// nobody reads, and the guest's thread must not wait for it. The log limit bounds what waits here.
struct ToStderr(mpsc::Sender<Vec<u8>>);

impl ToStderr {
    /// The sink, and a future that is ready when everything it took is written.
    fn start() -> (Self, oneshot::Receiver<()>) {
        let (send, receive) = mpsc::channel::<Vec<u8>>();
        let (done, written) = oneshot::channel();
        thread::spawn(move || {
            for piece in receive {
                // There is nobody to tell if stderr is gone.
                let _ = std::io::stderr().lock().write_all(&piece);
            }
            let _ = done.send(());
        });
        (ToStderr(send), written)
    }
}

impl LogSink for ToStderr {
    fn write(&self, stream: LogStream, bytes: &[u8]) {
        let piece = match stream {
            // On a terminal the guest must not be able to move the cursor or forge lines.
            LogStream::Stderr if std::io::stderr().is_terminal() => harmless(bytes),
            LogStream::Stderr => bytes.to_vec(),
            level => format!("{level}: {}\n", render::plain(&String::from_utf8_lossy(bytes))).into_bytes(),
        };
        // The receiver lives as long as this.
        let _ = self.0.send(piece);
    }
}

/// The bytes without control characters other than line ends and tabs.
fn harmless(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| if byte.is_ascii_control() && !b"\n\t".contains(byte) { b' ' } else { *byte }).collect()
}
