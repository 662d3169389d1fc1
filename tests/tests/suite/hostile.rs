//! Guests that want more than they may: each ends with the reason in its report, or is refused, and
//! never gets more than its budget.

use std::{
    os::unix::fs::symlink,
    path::Path,
    sync::{Arc, Mutex},
};

use wasmjob_runtime::{Attempt, AttemptReport, Blob, Limit, LogSink, LogStream, OutcomeKind, Signals};
use wasmjob_tests::alone::{InMemory, folder, output, run, run_example, scratch_folders};

const MEMORY_BYTES: u64 = 64 << 20;
const SCRATCH_BYTES: u64 = 1 << 20;

fn tight(attempt: &mut Attempt) {
    attempt.limits.memory = MEMORY_BYTES;
    attempt.limits.output = 1 << 20;
    attempt.limits.log = 1 << 16;
}

async fn hostile(mode: &str, change: impl FnOnce(&mut Attempt)) -> AttemptReport {
    let report = run_example("hostile", &[mode], |attempt| {
        tight(attempt);
        change(attempt);
    })
    .await;
    assert!(report.usage.memory_bytes_peak <= MEMORY_BYTES, "{mode}: {:?}", report.usage);
    report
}

#[track_caller]
fn assert_limit(what: &str, report: &AttemptReport, limit: Limit, words: &str) {
    let outcome = &report.outcome;
    assert_eq!((outcome.kind, outcome.limit), (OutcomeKind::Limit, Some(limit)), "{what}: {outcome:?}");
    let message = outcome.message.as_deref().unwrap_or_default();
    assert!(message.contains(words), "{what}: {message}");
}

#[track_caller]
fn assert_ok(what: &str, report: &AttemptReport) {
    assert!(report.outcome.is_ok(), "{what}: {:?}", report.outcome);
}

#[tokio::test]
async fn whoever_wants_more_than_an_attempt_may_have_is_stopped_with_the_reason() {
    for (mode, limit, words) in [
        ("fuel", Limit::Fuel, "1000000000"),
        ("host-calls", Limit::Fuel, "1000000000"),
        ("bytes", Limit::Fuel, "1000000000"),
        ("poll", Limit::Fuel, "1000000000"),
        ("random-fuel", Limit::Fuel, "1000000000"),
        ("memory", Limit::Memory, "64MiB"),
        ("stack", Limit::Stack, "limits.max.stack"),
        ("output", Limit::Output, "1MiB"),
        ("handles", Limit::Handles, "1024 handles"),
        ("timers", Limit::Handles, "1024 handles"),
        ("call", Limit::Call, "16MiB to the host"),
        ("random", Limit::Call, "16MiB of random"),
    ] {
        let report = hostile(mode, |_| {}).await;
        assert_limit(mode, &report, limit, words);
    }
    assert_ok("stderr", &hostile("stderr", |_| {}).await);
    let report = hostile("sleep", |attempt| attempt.limits.wall_ms = 100).await;
    assert_limit("sleep", &report, Limit::Wall, "100ms");
    let report = hostile("fuel", |attempt| (attempt.limits.fuel, attempt.limits.wall_ms) = (1 << 60, 100)).await;
    assert_limit("fuel", &report, Limit::Wall, "100ms");
}

#[tokio::test]
async fn host_work_is_fuel_and_not_time() {
    // Each would last for minutes if calls, bytes and pollables were free.
    for mode in ["host-calls", "bytes", "poll", "random-fuel"] {
        let report = hostile(mode, |_| {}).await;
        assert!(report.usage.fuel >= 1_000_000_000 && report.usage.fuel < 1_100_000_000, "{mode}: {:?}", report.usage);
    }
}

async fn hoards(what: &str, change: impl FnOnce(&mut Attempt)) -> AttemptReport {
    run_example("hoarder", &[], |attempt| {
        attempt.input = Blob::from_bytes(what.to_owned().into());
        attempt.artifacts = Arc::new(InMemory::default());
        change(attempt);
    })
    .await
}

#[tokio::test]
async fn artifacts_are_held_and_written_a_few_at_a_time() {
    for (what, most) in [("writers", "16: "), ("blobs", "64: ")] {
        let said = output(&hoards(what, |_| {}).await);
        assert!(said.starts_with(most) && said.contains("at the same time"), "{what}: {said}");
    }
}

#[tokio::test]
async fn bytes_of_an_artifact_cost_the_groups_that_are_hashed_for_them() {
    let signals = Arc::new(Signals::default());
    let report = hoards("jumps", |attempt| attempt.signals = signals.clone()).await;
    assert_limit("jumps", &report, Limit::Fuel, "1000000000");
    // 2 x 256 KiB of hashing each turn: some thousand turns, and not hundreds of thousands.
    let turns = signals.progress().unwrap().done;
    assert!((1_000..2_000).contains(&turns), "{turns}");
}

/// Keeps the lines of a log.
#[derive(Default)]
struct Lines(Mutex<Vec<u8>>);

impl LogSink for Lines {
    fn write(&self, _: LogStream, bytes: &[u8]) {
        self.0.lock().unwrap().extend_from_slice(bytes);
    }
}

#[tokio::test]
async fn a_long_line_of_the_log_and_a_long_message_of_progress_are_cut() {
    let (lines, signals) = (Arc::new(Lines::default()), Arc::new(Signals::default()));
    let report = hoards("line", |attempt| (attempt.log, attempt.signals) = (lines.clone(), signals.clone())).await;
    assert_ok("line", &report);
    let line = lines.0.lock().unwrap().len();
    assert!((8 << 10..9 << 10).contains(&line), "{line}");
    assert_eq!(signals.progress().unwrap().message.len(), 256);
}

#[tokio::test]
async fn what_is_printed_and_written_as_artifacts_counts_as_output_together() {
    let all = |output| hoards("blobs", move |attempt| attempt.limits.output = output);
    // 4 KiB for each artifact and its 4 bytes.
    let said = output(&all(10 * 4100 + 100).await);
    assert!(said.starts_with("10: ") && said.contains("output limit"), "{said}");
    let report = all(10 * 4100 + 10).await;
    assert_limit("its own output", &report, Limit::Output, "41010B");
}

#[tokio::test]
async fn a_guest_that_talks_without_end_is_kept_short() {
    for input in ["log", "progress"] {
        let report = run_example("chatter", &[], |attempt| {
            tight(attempt);
            attempt.input = Blob::from_bytes(input.into());
        })
        .await;
        assert_limit(input, &report, Limit::Fuel, "1000000000");
        assert!(report.usage.memory_bytes_peak <= MEMORY_BYTES);
        assert_eq!(report.usage.log_bytes_dropped > 1 << 20, input == "log", "{:?}", report.usage);
    }
}

#[tokio::test]
async fn a_scratch_folder_holds_what_was_granted_and_is_gone_afterwards() {
    for mode in [
        "scratch-fill",
        "scratch-many-files",
        "scratch-folders",
        "scratch-links",
        "scratch-symlinks",
        "scratch-size",
        "scratch-hole",
        "scratch-unlinked",
        "scratch-stream",
    ] {
        let report = hostile(mode, |attempt| attempt.grants.scratch_bytes = Some(SCRATCH_BYTES)).await;
        assert_limit(mode, &report, Limit::Scratch, "--grant scratch=SIZE");
    }
    for mode in ["scratch-churn", "scratch-deep"] {
        let report = hostile(mode, |attempt| {
            attempt.grants.scratch_bytes = Some(SCRATCH_BYTES);
            attempt.limits.fuel = 10_000_000_000;
        })
        .await;
        assert_ok(mode, &report);
    }
    // Another test of this file can have one at this moment; none stays.
    let mut left = scratch_folders();
    while !left.is_empty() {
        left.retain(|path| path.exists());
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn open_files_and_listings_are_counted() {
    let report = hostile("files", |attempt| attempt.grants.scratch_bytes = Some(SCRATCH_BYTES)).await;
    assert_limit("files", &report, Limit::Handles, "256 on files");
    let report = hostile("listings", |attempt| attempt.grants.scratch_bytes = Some(SCRATCH_BYTES)).await;
    assert_limit("listings", &report, Limit::Handles, "256 on files");
    let report = hostile("listings", |attempt| {
        attempt.grants.scratch_bytes = Some(SCRATCH_BYTES);
        attempt.limits.memory = 5 << 20;
    })
    .await;
    assert_limit("listings", &report, Limit::Memory, "5MiB");
}

/// A folder as an operator has it: with links out of it, beside something that is nobody's business.
fn granted() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (data, other) = (dir.path().join("data"), dir.path().join("other"));
    for folder in [&data, &other, &data.join("inner"), &dir.path().join("beside")] {
        std::fs::create_dir(folder).unwrap();
    }
    for file in [data.join("file"), dir.path().join("secret"), dir.path().join("beside/file")] {
        std::fs::write(file, "text").unwrap();
    }
    for (name, target) in [
        ("link-up", ".."),
        ("link-absolute", "/etc/passwd"),
        ("link-secret", "../secret"),
        ("link-proc", "/proc/self/root"),
        ("link-magic", "/proc/self/fd/0"),
        ("link-new", "../made"),
        ("link-pipe", "pipe"),
    ] {
        symlink(target, data.join(name)).unwrap();
    }
    dir
}

fn everything_in(dir: &Path) -> Vec<String> {
    let names = |dir: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        entries.map(|entry| entry.unwrap().path().display().to_string()).collect()
    };
    let mut all = [names(dir), names(&dir.join("beside")), names(&dir.join("other"))].concat();
    all.sort();
    all
}

#[tokio::test]
async fn no_path_leads_out_of_a_granted_folder() {
    let dir = granted();
    let before = everything_in(dir.path());
    let report = hostile("escape", |attempt| {
        attempt.grants.folders = vec![folder(&dir.path().join("data"), "/data", true)];
    })
    .await;
    assert_ok("escape", &report);
    assert_eq!(everything_in(dir.path()), before);
    assert_eq!(std::fs::read_to_string(dir.path().join("secret")).unwrap(), "text");
    assert!(!Path::new("/tmp/made").exists());
}

#[tokio::test]
async fn nothing_changes_below_a_folder_that_is_read_only() {
    let dir = granted();
    let data = dir.path().join("data");
    let modified = || std::fs::metadata(data.join("file")).unwrap().modified().unwrap();
    let before = modified();
    let report = hostile("write-ro", |attempt| attempt.grants.folders = vec![folder(&data, "/data", false)]).await;
    assert_ok("write-ro", &report);
    assert_eq!((std::fs::read_dir(&data).unwrap().count(), modified()), (9, before));
    assert_eq!(std::fs::read_to_string(data.join("file")).unwrap(), "text");
}

#[tokio::test]
async fn what_is_neither_a_file_nor_a_folder_is_not_opened() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let dir = granted();
    let data = dir.path().join("data");
    mknodat(CWD, data.join("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(data.join("socket")).unwrap();
    let report = hostile("special", |attempt| attempt.grants.folders = vec![folder(&data, "/data", true)]).await;
    assert_ok("special", &report);
}

#[tokio::test]
async fn one_grant_does_not_reach_into_another() {
    let dir = granted();
    let report = hostile("cross", |attempt| {
        attempt.grants.folders =
            ["data", "other"].map(|name| folder(&dir.path().join(name), &format!("/{name}"), true)).into();
        attempt.grants.scratch_bytes = Some(SCRATCH_BYTES);
    })
    .await;
    assert_ok("cross", &report);
}

#[tokio::test]
async fn without_a_grant_there_are_no_folders() {
    for deterministic in [None, Some(1)] {
        let report = hostile("scratch-fill", |attempt| {
            attempt.deterministic = deterministic;
            attempt.grants.scratch_bytes = deterministic.map(|_| SCRATCH_BYTES);
        })
        .await;
        assert_eq!(report.outcome.kind, OutcomeKind::Error, "{:?}", report.outcome);
    }
}

/// Small numbers of what costs the host memory whatever is in it.
#[tokio::test]
async fn memories_tables_and_instances_are_few() {
    let start = r#"(func (export "_start"))"#;
    let many = |what: &str, number: usize| what.repeat(number);
    for (what, module, limit) in [
        ("tables", format!("(module {} {start})", many("(table 1 funcref)", 65)), Limit::Instances),
        ("elements", format!("(module (table 200001 funcref) {start})"), Limit::Table),
        ("pages", format!("(module (memory 2000) {start})"), Limit::Memory),
    ] {
        let module = Blob::from_bytes(wat::parse_str(module).unwrap().into());
        let report = run(module, tight).await;
        assert_eq!(report.outcome.limit, Some(limit), "{what}: {:?}", report.outcome);
    }
}
