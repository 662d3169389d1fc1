//! What programs expect of WASI, checked from inside: as a component and as a plain module.

use wasmjob_runtime::{Attempt, AttemptReport, Blob, OutcomeKind};
use wasmjob_tests::{
    Machine,
    alone::{folder, output, run},
    guest,
};

/// The two ways a command is built.
fn builds() -> [(&'static str, Blob); 2] {
    ["wasm32-wasip2", "wasm32-wasip1"].map(|target| {
        let bytes = std::fs::read(guest::example_for(target, "conform")).unwrap();
        (target, Blob::from_bytes(bytes.into()))
    })
}

async fn conform(build: &Blob, args: &[&str], change: impl FnOnce(&mut Attempt)) -> AttemptReport {
    run(build.clone(), |attempt| {
        attempt.args = args.iter().map(|&arg| arg.to_owned()).collect();
        change(attempt);
    })
    .await
}

/// Every check holds; the message of a failed one has the last of its lines.
async fn assert_conforms(build: &Blob, args: &[&str], change: impl FnOnce(&mut Attempt)) {
    let lines = std::sync::Arc::new(Lines::default());
    let sink = lines.clone();
    let report = conform(build, args, |attempt| {
        attempt.log = sink;
        change(attempt);
    })
    .await;
    let text = String::from_utf8_lossy(&lines.0.lock().unwrap()).into_owned();
    assert!(report.outcome.is_ok(), "{args:?}: {:?}\n{text}", report.outcome);
    assert!(text.contains("checks, 0 failed"), "{text}");
}

#[derive(Default)]
struct Lines(std::sync::Mutex<Vec<u8>>);

impl wasmjob_runtime::LogSink for Lines {
    fn write(&self, _: wasmjob_runtime::LogStream, bytes: &[u8]) {
        self.0.lock().unwrap().extend_from_slice(bytes);
    }
}

#[tokio::test]
async fn a_program_gets_its_arguments_environment_and_input() {
    for (target, build) in builds() {
        let report = conform(&build, &["streams", "a", "b c", "", "\u{e4}"], |attempt| {
            attempt.env = [("B", "2 =3"), ("A", ""), ("\u{e4}", "\u{f6}")].map(|(a, b)| (a.into(), b.into())).into();
            attempt.input = Blob::from_bytes(vec![1; 200_000].into());
        })
        .await;
        assert!(report.outcome.is_ok(), "{target}: {:?}", report.outcome);
        let sum = (0..200_000).fold(0_u64, |sum, _| sum.wrapping_mul(31).wrapping_add(1));
        assert_eq!(
            output(&report),
            format!(
                "[\"streams\", \"a\", \"b c\", \"\", \"\u{e4}\"]\n[(\"A\", \"\"), (\"B\", \"2 =3\"), (\"\u{e4}\", \
                 \"\u{f6}\")]\n200000 bytes, {sum}\n"
            )
        );
    }
}

#[tokio::test]
async fn a_program_ends_with_its_exit_code() {
    for (target, build) in builds() {
        for code in [0_u8, 1, 7, 255] {
            let report = conform(&build, &["exit", &code.to_string()], |_| {}).await;
            // The exit of WASI 0.2 that a component's standard library calls knows success and failure only.
            let expected = if target == "wasm32-wasip1" { code } else { code.min(1) };
            assert_eq!(report.outcome.exit_code, Some(expected), "{target}: {:?}", report.outcome);
        }
        let report = conform(&build, &["panic"], |_| {}).await;
        assert_eq!(report.outcome.kind, OutcomeKind::Trap);
        assert!(report.outcome.message.unwrap().contains("as it was told"));
    }
}

#[tokio::test]
async fn clocks_and_random_numbers_are_what_programs_expect() {
    for (_, build) in builds() {
        assert_conforms(&build, &["machine"], |_| {}).await;
    }
}

#[tokio::test]
async fn files_behave_as_programs_expect() {
    for (_, build) in builds() {
        let dir = tempfile::tempdir().unwrap();
        assert_conforms(&build, &["files", "/work"], |attempt| {
            attempt.grants.folders = vec![folder(dir.path(), "/work", true)];
        })
        .await;
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn files_in_the_scratch_folder_do_too() {
    for (_, build) in builds() {
        assert_conforms(&build, &["files", "/scratch"], |attempt| attempt.grants.scratch_bytes = Some(6 << 30)).await;
    }
}

#[tokio::test]
async fn the_calls_of_preview_1_behave_as_programs_expect() {
    let [_, (_, build)] = builds();
    let dir = tempfile::tempdir().unwrap();
    assert_conforms(&build, &["preview1", "work"], |attempt| {
        attempt.grants.folders = vec![folder(dir.path(), "work", true)];
        attempt.input = Blob::from_bytes("input".into());
    })
    .await;
}

#[tokio::test]
async fn what_the_adapter_of_plain_modules_cannot_do_is_said_in_words() {
    let [_, (_, plain)] = builds();
    let long = "x".repeat(60_000);
    let report = conform(&plain, &[&long], |_| {}).await;
    assert_eq!(report.outcome.kind, OutcomeKind::Trap);
    assert!(report.outcome.message.as_ref().unwrap().contains("about 50 KB"), "{:?}", report.outcome);
    // A name of a file in bytes that are no text.
    let opens = r#"(module
        (import "wasi_snapshot_preview1" "path_open"
            (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 16) "a\ff")
        (func (export "_start")
            (drop (call $open (i32.const 3) (i32.const 0) (i32.const 16) (i32.const 2) (i32.const 1)
                (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 64)))))"#;
    let machine = Machine::new();
    let file = machine.file("opens.wasm", wat::parse_str(opens).unwrap());
    let said = machine.wasmjob(&["run", &file, "--grant", "scratch=1MiB"]).ended(1);
    said.saying(&["not UTF-8", "name of a file"]);
}
