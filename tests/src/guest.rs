//! Guests in the text format: plain `wasm32-wasip1` commands that need no toolchain to build.

use std::path::Path;

/// A command: the imports that guests here use, two pages of memory, and `body`.
#[must_use]
pub fn command(body: &str) -> String {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 2)
            (func $out (param $fd i32) (param $at i32) (param $length i32)
              (i32.store (i32.const 0) (local.get $at)) (i32.store (i32.const 4) (local.get $length))
              (drop (call $write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
            (func $sleep_ms (param $ms i64)
              (memory.fill (i32.const 128) (i32.const 0) (i32.const 48))
              (i32.store (i32.const 144) (i32.const 1))
              (i64.store (i32.const 152) (i64.mul (local.get $ms) (i64.const 1000000)))
              (drop (call $poll (i32.const 128) (i32.const 192) (i32.const 1) (i32.const 8))))
            {body})"#
    )
}

/// A command that does this.
#[must_use]
pub fn start(body: &str) -> String {
    command(&format!(r#"(func (export "_start") {body})"#))
}

/// Prints `text` on its standard output.
#[must_use]
pub fn says(text: &str) -> String {
    command(&format!(
        r#"(data (i32.const 1024) "{text}")
           (func (export "_start") (call $out (i32.const 1) (i32.const 1024) (i32.const {})))"#,
        text.len()
    ))
}

/// Calls itself this often before it ends well.
#[must_use]
pub fn recurses(times: u32) -> String {
    command(&format!(
        r#"(func $f (param i32) (result i32)
             (if (result i32) (local.get 0)
               (then (i32.add (i32.const 1) (call $f (i32.sub (local.get 0) (i32.const 1)))))
               (else (i32.const 0))))
           (func (export "_start") (drop (call $f (i32.const {times}))))"#
    ))
}

/// Sleeps, which takes no processor time, then prints `slept`.
#[must_use]
pub fn sleeps_ms(ms: u32) -> String {
    command(&format!(
        r#"(data (i32.const 1024) "slept")
           (func (export "_start")
             (call $sleep_ms (i64.const {ms})) (call $out (i32.const 1) (i32.const 1024) (i32.const 5)))"#
    ))
}

/// Says `tick` on its standard error, sleeps, says `tock`.
#[must_use]
pub fn ticks_ms(ms: u32) -> String {
    command(&format!(
        r#"(data (i32.const 1024) "tick\ntock\n")
           (func (export "_start")
             (call $out (i32.const 2) (i32.const 1024) (i32.const 5))
             (call $sleep_ms (i64.const {ms}))
             (call $out (i32.const 2) (i32.const 1029) (i32.const 5)))"#
    ))
}

/// Never ends and uses all the processor it gets.
#[must_use]
pub fn spins() -> String {
    start("(loop $l (br $l))")
}

/// Fills half a gigabyte of memory again and again: each time is one instruction.
#[must_use]
pub fn fills() -> String {
    r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 8000)
        (func (export "_start")
          (loop $l (memory.fill (i32.const 65536) (i32.const 7) (i32.const 520000000)) (br $l))))"#
        .to_owned()
}

/// Ends with this exit code.
#[must_use]
pub fn exits(code: u8) -> String {
    start(&format!("(call $exit (i32.const {code}))"))
}

/// Traps.
#[must_use]
pub fn traps() -> String {
    start("unreachable")
}

/// Copies its standard input to its standard output.
#[must_use]
pub fn cat() -> String {
    command(
        r#"(func (export "_start") (local $n i32)
             (loop $more
               (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 4096))
               (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
               (local.set $n (i32.load (i32.const 8)))
               (call $out (i32.const 1) (i32.const 1024) (local.get $n))
               (br_if $more (local.get $n))))"#,
    )
}

/// Prints its arguments and its environment, each followed by a zero byte.
#[must_use]
pub fn says_args_and_env() -> String {
    let print = |sizes: &str, get: &str| {
        format!(
            "(drop (call {sizes} (i32.const 16) (i32.const 20)))
             (drop (call {get} (i32.const 1024) (i32.const 4096)))
             (call $out (i32.const 1) (i32.const 4096) (i32.load (i32.const 20)))"
        )
    };
    start(&format!("{} {}", print("$args_sizes", "$args"), print("$environ_sizes", "$environ")))
}

/// A small component that takes more than 2 GiB to compile: each of 10,000 blocks ends with 1,000 values
/// for the one around it.
#[must_use]
pub fn takes_memory_to_compile() -> String {
    let (depth, width) = (10_000, 1_000);
    let targets: String = (0..depth).map(|label| format!(" {label}")).collect();
    format!(
        r#"(module (type $many (func (result{}))) (func (export "_start") {} {} i32.const 0 br_table{targets} {} {}))"#,
        " i32".repeat(width),
        "block (type $many) ".repeat(depth),
        "i32.const 0 ".repeat(width),
        "end ".repeat(depth),
        "drop ".repeat(width),
    )
}

/// A component that takes time to compile, with the square of its `size`: about a second for 1,000. Its
/// variables are all needed all the time, which is what registers are hard to find for.
#[must_use]
pub fn takes_time_to_compile(size: usize) -> String {
    let variables = " i32".repeat(size);
    let step = |i: usize| {
        let [a, b, c] = [i % size, (i * 7_919 + 1) % size, (i * 31) % size];
        let again = if i.is_multiple_of(10) { format!("local.get {a} br_if 0 ") } else { String::new() };
        format!("local.get {a} local.get {b} i32.mul local.set {c} {again}")
    };
    let steps: String = (0..10 * size).map(step).collect();
    format!(r#"(module (func (export "_start") (local{variables}) loop {steps} end))"#)
}

/// A command that imports something nobody granted.
pub const WANTS_HTTP: &str = r#"(component
    (import "wasi:http/types@0.2.3" (instance))
    (core module $m (func (export "run") (result i32) (i32.const 0)))
    (core instance $i (instantiate $m))
    (func $run (result (result)) (canon lift (core func $i "run")))
    (instance $command (export "run" (func $run)))
    (export "wasi:cli/run@0.2.0" (instance $command)))"#;

/// The path of a guest of `guest-examples`, which is built before the tests.
/// Panics, with what to do, if it is not there.
#[must_use]
pub fn example(name: &str) -> String {
    example_for("wasm32-wasip2", name)
}

/// The same guest, built for this target.
/// Panics, with what to do, if it is not there.
#[must_use]
pub fn example_for(target: &str, name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-examples");
    let path = folder.join("target").join(target).join("release").join(format!("{name}.wasm"));
    assert!(
        path.is_file(),
        "{} is missing: build it with `cd guest-examples && ../deploy/guest-cargo build --release --target {target}`, \
         as tests/run does",
        path.display()
    );
    path.display().to_string()
}
