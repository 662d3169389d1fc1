//! Hostile guests.

use wasm_encoder::{
    BlockType, CodeSection, CustomSection, EntityType, ExportKind, ExportSection, Function, FunctionSection,
    ImportSection, Instruction, MemorySection, MemoryType, Module, TypeSection, ValType,
};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// Functions of a bomb, and rounds of arithmetic in each: some seconds of Cranelift on one core.
const BOMB: (usize, usize) = (24, 2_000);

/// Does nothing but call WASI: the clock, random bytes, one byte to standard error.
pub fn calls_wasi() -> String {
    r#"(module
        (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
        (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 4)
        (func (export "_start")
          (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 1))
          (loop $l
            (drop (call $clock (i32.const 1) (i64.const 1) (i32.const 128)))
            (drop (call $random (i32.const 1024) (i32.const 4096)))
            (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))
            (br $l))))"#
        .to_owned()
}

/// Does nothing but call the host: log lines, progress, and an artifact that nobody has.
pub fn calls_job() -> Vec<u8> {
    let digest = wasmjob_runtime::Digest::of(b"nobody has this");
    job(&format!(
        r#"(module
            (import "wasmjob:job/log@0.1.0" "log" (func $log (param i32 i32 i32)))
            (import "wasmjob:job/context@0.1.0" "progress" (func $progress (param i64 i32 i64 i32 i32)))
            (import "wasmjob:job/artifacts@0.1.0" "open" (func $open (param i32 i32 i32)))
            (memory (export "memory") 4)
            (data (i32.const 64) "{digest}")
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
            (func (export "run") (param i32) (result i32)
              (loop $l
                (call $log (i32.const 2) (i32.const 64) (i32.const 71))
                (call $progress (i64.const 1) (i32.const 0) (i64.const 0) (i32.const 64) (i32.const 71))
                (call $open (i32.const 64) (i32.const 71) (i32.const 1024))
                (br $l))
              unreachable))"#
    ))
}

/// A component of the job world, from a module that imports and exports as that world is lowered.
fn job(module: &str) -> Vec<u8> {
    let mut module = wat::parse_str(module).expect("the module is valid");
    let mut resolve = Resolve::default();
    let wit = concat!(env!("CARGO_MANIFEST_DIR"), "/../wit");
    let (package, _) = resolve.push_dir(wit).expect("the interfaces are valid");
    let world = resolve.select_world(&[package], Some("job")).expect("there is the world of jobs");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("the world can be written");
    let encoder = ComponentEncoder::default().validate(true).module(&module).expect("the module is of the world");
    { encoder }.encode().expect("the module is of the world")
}

/// Fills all its memory again and again; each time is one instruction.
pub fn fills() -> String {
    r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 4000)
        (func (export "_start")
          (loop $l (memory.fill (i32.const 65536) (i32.const 7) (i32.const 260000000)) (br $l))))"#
        .to_owned()
}

/// Grows to its limit, touching every page, and ends there.
pub fn grows() -> String {
    r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (func (export "_start") (local $old i32)
          (loop $l
            (local.set $old (memory.grow (i32.const 16)))
            (memory.fill (i32.mul (local.get $old) (i32.const 65536)) (i32.const 7) (i32.const 1048576))
            (br $l))))"#
        .to_owned()
}

/// Prints until its output limit ends it.
pub fn floods() -> String {
    r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 4)
        (func (export "_start")
          (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 65536))
          (loop $l
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
            (br $l))))"#
        .to_owned()
}

/// A module that is expensive to compile, different for each `number`. One that runs is a command
/// that ends at once; one that does not has a world that no job has, which is found after compiling.
pub fn bomb(number: u64, runs: bool) -> Vec<u8> {
    let mut module = Module::new();
    let mut types = TypeSection::new();
    types.ty().function([ValType::I32], []);
    types.ty().function([], []);
    types.ty().function([ValType::I64; 4], [ValType::I64]);
    module.section(&types);
    let mut imports = ImportSection::new();
    imports.import("wasi_snapshot_preview1", "proc_exit", EntityType::Function(0));
    let (functions, rounds) = BOMB;
    let mut declared = FunctionSection::new();
    declared.function(1);
    for _ in 0..functions {
        declared.function(2);
    }
    let mut memories = MemorySection::new();
    memories.memory(MemoryType { minimum: 1, maximum: None, memory64: false, shared: false, page_size_log2: None });
    let mut exports = ExportSection::new();
    exports.export("memory", ExportKind::Memory, 0);
    exports.export("_start", ExportKind::Func, 1);
    module.section(&imports).section(&declared).section(&memories).section(&exports);
    let mut code = CodeSection::new();
    let mut start = Function::new([]);
    start.instruction(&Instruction::End);
    code.function(&start);
    for at in 0..functions {
        code.function(&arithmetic(number.wrapping_add(at as u64), rounds));
    }
    module.section(&code);
    module.section(&CustomSection { name: "number".into(), data: number.to_le_bytes().to_vec().into() });
    if runs { module.finish() } else { without_entry(&module.finish()) }
}

/// The module inside a component that exports nothing.
fn without_entry(module: &[u8]) -> Vec<u8> {
    use wasm_encoder::{Component, RawSection};
    let mut component = Component::new();
    component.section(&RawSection { id: wasm_encoder::ComponentSectionId::CoreModule.into(), data: module });
    component.finish()
}

/// Many values that live at the same time across many branches: what allocating registers costs most for.
fn arithmetic(seed: u64, rounds: usize) -> Function {
    let mut function = Function::new([(12, ValType::I64)]);
    let mut random = seed | 1;
    let mut next = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        u32::try_from(random % below).unwrap_or(0)
    };
    for _ in 0..rounds {
        function.instruction(&Instruction::LocalGet(next(16)));
        function.instruction(&Instruction::I64Eqz);
        function.instruction(&Instruction::If(BlockType::Empty));
        for _ in 0..2 {
            function.instruction(&Instruction::LocalGet(next(16)));
            function.instruction(&Instruction::LocalGet(next(16)));
            function.instruction(match next(3) {
                0 => &Instruction::I64Add,
                1 => &Instruction::I64Mul,
                _ => &Instruction::I64Rotl,
            });
            function.instruction(&Instruction::LocalSet(next(16)));
        }
        function.instruction(&Instruction::End);
    }
    function.instruction(&Instruction::LocalGet(0));
    function.instruction(&Instruction::End);
    function
}
