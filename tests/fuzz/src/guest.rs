//! A guest that calls whatever its input says.
//!
//! A core module that imports every function of every interface a job can import, lowered as the
//! canonical ABI has it, and interprets its input as calls: which function, and for each argument a
//! number, an earlier result or a pointer into memory. The functions come from the WIT itself, ours
//! in `wit/` and WASI's out of the adapter for plain modules and `tests/fuzz/wit/`, so new ones are called without a change
//! here. It is compiled once; an input costs one attempt.
//!
//! A program is a list of calls: two bytes (function, modulo the number of functions), then each
//! argument as in `$arg` below. A program that ends within a call goes on with zeros.

use std::fmt::Write as _;
use std::path::Path;

use wasi_preview1_component_adapter_provider::WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER as ADAPTER;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata, metadata};
use wit_parser::abi::{AbiVariant, WasmSignature, WasmType};
use wit_parser::{
    LiftLowerAbi, ManglingAndAbi, Resolve, ResourceIntrinsic, TypeDefKind, WasmImport, WorldId, WorldItem, WorldKey,
};

/// The part of it that is the same whatever there is to call.
const INTERPRETER: &str = include_str!("interpreter.wat");

const SYNC: ManglingAndAbi = ManglingAndAbi::Legacy(LiftLowerAbi::Sync);

/// The interfaces of WASI that the adapter has not.
const HTTP_WIT: &str = include_str!("../wit/http.wit");

/// Where in a component's interfaces this repository's own are.
const WIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit");
/// The same, for whoever compiles this file as part of the suite.
const WIT_OF_SUITE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../wit");

/// Operations that are no calls, before the functions in the table: their numbers stay the same.
pub const OPS: [&str; 6] = ["store", "load", "realloc", "return", "grow", "nothing"];

/// The guest and the names of what it can call, in the order of its table: operations first.
pub struct Guest {
    /// The component.
    pub component: Vec<u8>,
    /// `store`, ..., `wasi:io/poll@0.2.12 poll`, ...
    pub names: Vec<String>,
    /// How many arguments each takes.
    pub arguments: Vec<usize>,
}

impl Guest {
    /// Generates it.
    pub fn generate() -> Self {
        let (resolve, world) = world();
        let functions = functions(&resolve, world);
        let mut module = wat::parse_str(module(&functions)).expect("the generated module is well-formed");
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("the world can be written");
        let mut encoder =
            ComponentEncoder::default().validate(true).module(&module).expect("the module fits its world");
        let component = encoder.encode().expect("the module fits its world");
        let ops = OPS.iter().map(|op| (*op).to_owned()).zip([2, 1, 1, 1, 0, 0]);
        let calls = functions.iter().map(|f| (format!("{} {}", f.module, f.name), f.signature.params.len()));
        let (names, arguments) = ops.chain(calls).unzip();
        Guest { component, names, arguments }
    }
}

/// A world with everything in it that this host links.
fn world() -> (Resolve, WorldId) {
    let (_, adapter) = metadata::decode(ADAPTER).expect("the adapter says which interfaces it has");
    let mut resolve = adapter.resolve;
    let wit = if Path::new(WIT).is_dir() { WIT } else { WIT_OF_SUITE };
    let mut own = Resolve::default();
    let (package, _) = own.push_dir(wit).expect("our interfaces are valid");
    resolve.push_str("http.wit", HTTP_WIT).expect("the interfaces of HTTP fit WASI's others");
    let own_name = own.packages[package].name.clone();
    resolve.merge(own).expect("our interfaces and WASI's go together");
    let mut imports = String::new();
    for (_, package) in resolve.packages.iter().filter(|(_, package)| package.name.namespace == "wasi") {
        // What a command exports; nothing to import.
        for name in package.interfaces.keys().filter(|name| *name != "run") {
            writeln!(imports, "import {};", package.name.interface_id(name)).expect("a string takes everything");
        }
    }
    let job = own_name.interface_id("job-with-grants");
    let text = format!("package fuzz:guest;\nworld guest {{ {imports} include {job}; }}");
    let package = resolve.push_str("guest.wit", &text).expect("the world is valid");
    let world = resolve.select_world(&[package], Some("guest")).expect("it was just made");
    (resolve, world)
}

struct Lowered {
    module: String,
    name: String,
    signature: WasmSignature,
}

fn functions(resolve: &Resolve, world: WorldId) -> Vec<Lowered> {
    let mut functions = Vec::new();
    for (key, item) in &resolve.worlds[world].imports {
        let WorldItem::Interface { id, .. } = item else { continue };
        let interface = &resolve.interfaces[*id];
        for function in interface.functions.values() {
            let (module, name) =
                resolve.wasm_import_name(SYNC, WasmImport::Func { interface: Some(key), func: function });
            let signature = resolve.wasm_signature(AbiVariant::GuestImport, function);
            functions.push(Lowered { module, name, signature });
        }
        for resource in interface.types.values().filter(|id| matches!(resolve.types[**id].kind, TypeDefKind::Resource))
        {
            functions.push(drop_of(resolve, key, *resource));
        }
    }
    // What came later is later in the table, so that seeds go on calling what they called.
    functions.sort_by_key(|Lowered { module, .. }| (module.starts_with("wasi:http"), module.starts_with("wasmjob:")));
    functions
}

fn drop_of(resolve: &Resolve, key: &WorldKey, resource: wit_parser::TypeId) -> Lowered {
    let intrinsic = ResourceIntrinsic::ImportedDrop;
    let (module, name) =
        resolve.wasm_import_name(SYNC, WasmImport::ResourceIntrinsic { interface: Some(key), resource, intrinsic });
    let signature =
        WasmSignature { params: vec![WasmType::I32], results: Vec::new(), indirect_params: false, retptr: false };
    Lowered { module, name, signature }
}

fn core_type(ty: WasmType) -> &'static str {
    match ty {
        WasmType::I32 | WasmType::Pointer | WasmType::Length => "i32",
        WasmType::I64 | WasmType::PointerOrI64 => "i64",
        WasmType::F32 => "f32",
        WasmType::F64 => "f64",
    }
}

/// An argument of this type, from the program.
fn argument(ty: WasmType) -> &'static str {
    match core_type(ty) {
        "i32" => "(i32.wrap_i64 (call $arg))",
        "i64" => "(call $arg)",
        "f32" => "(f32.reinterpret_i32 (i32.wrap_i64 (call $arg)))",
        _ => "(f64.reinterpret_i64 (call $arg))",
    }
}

/// A result of this type as a number that can be an argument later.
fn kept(ty: WasmType, call: &str) -> String {
    match core_type(ty) {
        "i32" => format!("(call $save (i64.extend_i32_u {call}))"),
        "i64" => format!("(call $save {call})"),
        "f32" => format!("(call $save (i64.extend_i32_u (i32.reinterpret_f32 {call})))"),
        _ => format!("(call $save (i64.reinterpret_f64 {call}))"),
    }
}

fn module(functions: &[Lowered]) -> String {
    let (mut imports, mut ops, mut table) = (String::new(), String::new(), String::new());
    let read = functions.iter().position(|function| function.name == "[method]blob.read").expect("jobs read blobs");
    for (at, Lowered { module, name, signature }) in functions.iter().enumerate() {
        let list = |word: &str, types: &[WasmType]| {
            let types: Vec<_> = types.iter().map(|ty| core_type(*ty)).collect();
            if types.is_empty() { String::new() } else { format!("({word} {})", types.join(" ")) }
        };
        let (params, results) = (list("param", &signature.params), list("result", &signature.results));
        writeln!(imports, r#"(import "{module}" "{name}" (func $f{at} {params} {results}))"#).expect("a string");
        let mut arguments: Vec<_> = signature.params.iter().map(|ty| argument(*ty)).collect();
        if signature.retptr {
            arguments.pop();
            arguments.push("(call $ret)");
        }
        let call = format!("(call $f{at} {})", arguments.join(" "));
        let call = signature.results.first().map_or(call.clone(), |ty| kept(*ty, &call));
        // Of what is returned in memory, the two places where a handle is most often.
        let returned = if signature.retptr { "(call $save_returned)" } else { "" };
        writeln!(ops, "(func $op{at} {call} {returned})").expect("a string");
        write!(table, " $op{at}").expect("a string");
    }
    let own: String = OPS.iter().map(|op| format!(" ${op}")).collect();
    INTERPRETER
        .replace("{imports}", &imports)
        .replace("{table}", &format!("{own} {table}"))
        .replace("{calls}", &ops)
        .replace("{read}", &read.to_string())
        .replace("{count}", &(OPS.len() + functions.len()).to_string())
}
