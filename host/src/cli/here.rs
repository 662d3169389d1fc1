//! One attempt in this process, for `run` and `replay`: the same sandbox and the same report as on a node.

use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use time::OffsetDateTime;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    time::timeout,
};
use wasmjob_runtime::{
    Attempt, AttemptReport, Blob, Grants, Limits, LogSink, LogStream, Outcome, Prepared, Sandbox, SandboxConfig,
    Signals, Variant, millis,
};

use super::{CliError, Exit, Global, local_artifacts::LocalArtifacts, render};
use crate::{
    compiler,
    config::Config,
    lifecycle, limit_values, private,
    wire::{JobSpec, OutputValue, Report, Retry, timestamp},
};

/// Bytes of compiled code that one run keeps in memory.
const CODE_BYTES_MAX: usize = 256 << 20;
/// How long the last lines of the log may take to be written.
const LAST_LINES: Duration = Duration::from_secs(1);
/// Output that a report carries itself; more is stored as an artifact.
const INLINE_BYTES_MAX: u64 = 1 << 20;

/// An attempt with everything it needs.
pub(super) struct Wanted {
    pub(super) spec: JobSpec,
    pub(super) number: u32,
    pub(super) component: Blob,
    pub(super) input: Blob,
    pub(super) limits: Limits,
    pub(super) grants: Grants,
    pub(super) soft: Duration,
}

/// Where an attempt in this process keeps what it needs for a while.
pub(super) fn scratch(config: &Config) -> Result<PathBuf, CliError> {
    let scratch = config.data.join("run");
    private::folder(&scratch).map_err(|error| CliError::platform(format!("{}: {error}", scratch.display())))?;
    Ok(scratch)
}

/// Makes the attempt; prints its output, or with `--json` its report. Gives the report, and the output.
pub(super) async fn attempt(
    global: &Global,
    config: &Config,
    artifacts: Arc<LocalArtifacts>,
    wanted: Wanted,
) -> Result<(Report, Option<Blob>), CliError> {
    let Wanted { spec, number, component, input, limits, grants, soft } = wanted;
    let signals = Arc::new(Signals::default());
    tokio::spawn(cancel_on_signals(signals.clone()));
    let mut report = Report { attempt: number, ..Report::queued(spec.id) };
    report.times.started = timestamp(OffsetDateTime::now_utc());
    let (log, written) = ToStderr::start();
    let attempt = |component| Attempt {
        component,
        job: report.job.to_string(),
        number,
        input,
        args: spec.args,
        env: spec.env.into_iter().collect(),
        limits,
        grants,
        deterministic: spec.deterministic.map(|deterministic| deterministic.seed),
        soft,
        artifacts: artifacts.clone(),
        log: Arc::new(log),
        signals: signals.clone(),
    };
    let variant = Variant::of(spec.deterministic.is_some());
    let ended = make_attempt(&scratch(config)?, config, component, variant, &signals, attempt).await?;
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
    Ok((report, output))
}

/// The exit code that says how the attempt ended, and why on stderr.
pub(super) fn conclude(global: &Global, report: &Report) -> Exit {
    if report.outcome.as_ref().is_some_and(Outcome::is_ok) {
        return Exit::Done;
    }
    if !global.json {
        render::talk(format!("error: {}", render::failure(report)));
    }
    Exit::Failed
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
