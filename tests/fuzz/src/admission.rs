//! Bytes that say they are a component: everything before compiling, and for small ones compiling too.

use std::sync::LazyLock;

use wasmjob_runtime::{OutcomeKind, Sandbox, SandboxConfig, admit};
use wasmparser::{Validator, WasmFeatures};

/// Larger components are not compiled here: one would take as long as thousands of others.
const COMPILED_BYTES_MAX: usize = 2 * 1024;

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| {
    let config = SandboxConfig::new(1, std::env::temp_dir());
    Sandbox::new(config).expect("this machine can run guests")
});

/// Admits `data` or refuses it with a reason; panics if it does something else.
pub fn run(data: &[u8]) {
    let component = match admit(data) {
        Ok(component) => component,
        Err(outcome) => {
            assert!(matches!(outcome.kind, OutcomeKind::Invalid | OutcomeKind::Limit), "{outcome:?}");
            assert!(outcome.message.is_some_and(|message| !message.is_empty()), "refused without a reason");
            return;
        }
    };
    assert!(component.starts_with(b"\0asm") && component[6..8] == [1, 0], "not a component");
    let valid = Validator::new_with_features(WasmFeatures::default()).validate_all(&component).is_ok();
    let adapted = component.as_ptr() != data.as_ptr();
    assert!(valid || !adapted, "adapting a module made a component that is not valid");
    if valid && component.len() <= COMPILED_BYTES_MAX {
        // However it ends, it ends.
        let _ = wasmtime_compiles(&component);
    }
}

/// Whether the compiler takes it, through the same engine that jobs run on.
fn wasmtime_compiles(component: &[u8]) -> bool {
    SANDBOX.engine().precompile_component(component).is_ok()
}

/// One of each kind of thing that comes in, in the text format.
const TEXTS: [&str; 12] = [
    "(component)",
    "(module)",
    r#"(module (func (export "_start")) (memory (export "memory") 1))"#,
    r#"(module (func (export "_start")))"#,
    r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
        (memory 1) (global (mut i32) (i32.const 0)) (table 3 funcref) (elem (i32.const 0) $exit) (data (i32.const 8) "x")
        (func (export "_start") (call $exit (i32.const 3))))"#,
    r#"(module (import "env" "f" (func)) (func (export "_start")))"#,
    r#"(component (import "wasi:http/types@0.2.3" (instance (export "x" (func)))))"#,
    r#"(component
        (import "wasi:io/error@0.2.0" (instance $e (export "error" (type (sub resource)))))
        (alias export $e "error" (type $t)) (import "wasi:io/streams@0.2.0" (instance (export "error" (type (eq $t))))))"#,
    r#"(component (component (component (core module))) (type (component (type (instance (type (component)))))))"#,
    r#"(component
        (core module $m (func (export "f") (result i32) (i32.const 0)))
        (core instance $i (instantiate $m))
        (func $run (result (result)) (canon lift (core func $i "f")))
        (instance $c (export "run" (func $run))) (export "wasi:cli/run@0.2.3" (instance $c)))"#,
    r#"(component
        (type $e (variant (case "a" string) (case "b" (list u8)) (case "c")))
        (type $r (record (field "x" (option u64)) (field "y" (tuple f32 f64)) (field "z" (flags "p" "q"))))
        (type (func (param "e" $e) (result (result $r (error $e))))))"#,
    r#"(component
        (core module $m
          (memory (export "memory") 1 2) (table (export "t") 1 10 funcref)
          (func (export "run") (param i32) (result i32)
            (block (loop (br_if 1 (i32.eqz (local.get 0))) (br_table 0 1 (local.get 0)))) (memory.grow (i32.const 1)))
          (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 8)))
        (core instance (instantiate $m)))"#,
];

/// Inputs to begin with.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let binary = |text: &&str| ((*text).to_owned(), wat::parse_str(text).expect("the seed is well-formed"));
    TEXTS.iter().map(binary).collect()
}
