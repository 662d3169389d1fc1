//! Admission: from bytes to a component that is ready to be instantiated.
//!
//! A component that gets through here is WebAssembly, small enough, one of the three kinds a job
//! may be, and imports nothing that it was not granted. `compile` is all that reads the bytes of a
//! stranger; a node has it done in another process (`compiler`). `load` and `link` see what came out.

use std::borrow::Cow;

use wasmparser::{BinaryReader, ComponentType, ComponentTypeDeclaration, ComponentTypeRef, Parser, Payload};
use wasmtime::{
    Engine,
    component::{Component, Linker, types::ComponentItem},
};
use wasmtime_wasi::p2::bindings::CommandPre;

use crate::{
    adapt,
    blob::Digest,
    capability::{self, JobPre},
    compiler::Code,
    grants::Grants,
    imports::{Need, grant_for},
    limits::{COMPONENT_BYTES_MAX, COMPONENT_DEPTH_MAX, Limit},
    report::Outcome,
    store::State,
};

/// A component that is compiled and linked: an attempt only has to instantiate it.
pub struct Prepared {
    digest: Digest,
    engine: Engine,
    code_bytes: usize,
    imports: Vec<String>,
    pub(crate) entry: Entry,
}

impl Prepared {
    /// Digest of the component as it was given.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The outcome of an attempt that was not granted what this component imports.
    pub(crate) fn refused_grants(&self, grants: &Grants) -> Option<Outcome> {
        self.imports.iter().find_map(|import| match grant_for(import) {
            Need::Flag(flag) if !capability::is_granted(import, grants) => {
                Some(Outcome::invalid(format!("it imports `{import}`, which was not granted: {flag} grants it")))
            }
            _ => None,
        })
    }

    /// The engine it was compiled for, the only one it can run in.
    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Bytes of machine code and data.
    pub fn code_bytes(&self) -> usize {
        self.code_bytes
    }
}

/// What is called.
pub(crate) enum Entry {
    /// `run` of the world `wasmjob:job/job`.
    Job(JobPre<State>),
    /// `wasi:cli/run`.
    Command(CommandPre<State>),
}

/// Validates and compiles `bytes`, adapting a plain module, to code that `load` takes. Takes from
/// milliseconds to for ever, and as much memory; call it where that is allowed.
/// Errors: an `invalid` or `limit` outcome.
pub(crate) fn compile(engine: &Engine, bytes: &[u8]) -> Result<Vec<u8>, Box<Outcome>> {
    let component = admit(bytes)?;
    engine.precompile_component(&component).map_err(|error| Box::new(not_compiled(&error)))
}

/// Makes a component of its machine code.
/// Errors: an `invalid` or `limit` outcome; also if the code is for another engine.
#[allow(unsafe_code)]
pub(crate) fn load(engine: &Engine, code: &Code) -> Result<Component, Box<Outcome>> {
    // SAFETY: `Code` is what `compile` returned, in this process or one that is this program, and
    // nobody could change since; wasmtime itself checks that it was made with this engine's settings.
    let component = unsafe { Component::deserialize(engine, code.as_bytes()) };
    component.map_err(|error| Box::new(not_compiled(&error)))
}

/// Everything that happens before compiling: the component that would be compiled, which is an adapted
/// plain module or `bytes` themselves.
/// Errors: an `invalid` or `limit` outcome.
#[doc(hidden)]
pub fn admit(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Box<Outcome>> {
    let component = as_component(bytes)?;
    check_before_compiling(&component)?;
    Ok(component)
}

/// The component that `bytes` are, or that the plain module in them becomes.
/// Errors: an `invalid` or `limit` outcome.
pub(crate) fn as_component(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Box<Outcome>> {
    let invalid = |message: String| Box::new(Outcome::invalid(message));
    if bytes.len() as u64 > COMPONENT_BYTES_MAX {
        return Err(Box::new(too_large(bytes.len() as u64, COMPONENT_BYTES_MAX)));
    }
    match kind(bytes) {
        Some(Kind::Component) => Ok(bytes.into()),
        Some(Kind::Module) => {
            adapt::component_types(bytes).try_for_each(|component| refuse_deep(outline(component).depth_max))?;
            Ok(adapt::adapt(bytes).map_err(invalid)?.into())
        }
        None => Err(invalid(not_wasm(bytes))),
    }
}

/// What a component says of itself before the first byte that makes no sense: the compiler says
/// what is wrong there.
#[derive(Default)]
pub(crate) struct Outline {
    /// Interfaces and functions it imports.
    pub(crate) imports: Vec<String>,
    /// How deep components, or types of components and instances, are nested in it.
    pub(crate) depth_max: usize,
}

pub(crate) fn outline(component: &[u8]) -> Outline {
    let (mut outline, mut depth) = (Outline::default(), 0_usize);
    for payload in Parser::new(0).parse_all(component).map_while(Result::ok) {
        match payload {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(imports) if depth == 0 => {
                let imports = imports.into_iter().map_while(Result::ok);
                let needed = imports.filter(|import| !matches!(import.ty, ComponentTypeRef::Type(_)));
                outline.imports.extend(needed.map(|import| import.name.name.to_owned()));
            }
            Payload::ComponentTypeSection(types) => {
                let types = component.get(types.range()).unwrap_or_default();
                // What cannot be read ends the validator at the same byte, no deeper than this got.
                outline.depth_max = outline.depth_max.max(type_depth(types).unwrap_or(0));
            }
            _ => {}
        }
        outline.depth_max = outline.depth_max.max(depth);
    }
    outline
}

/// How deep types of components and instances are nested in a section of types; looks no further
/// once it is too deep. `wasmparser` reads and validates them by recursion, which three bytes a
/// level drive through the end of the stack, so they are not read with it before this.
fn type_depth(section: &[u8]) -> wasmparser::Result<usize> {
    let mut reader = BinaryReader::new(section, 0);
    let mut depth_max = 0;
    // What is left to read of the section and of each type that is open.
    let mut left = vec![reader.read_var_u32()?];
    while let Some(count) = left.last_mut().filter(|_| depth_max <= COMPONENT_DEPTH_MAX) {
        let Some(rest) = count.checked_sub(1) else {
            left.pop();
            continue;
        };
        *count = rest;
        let is_type = left.len() == 1 || skip_to_type(&mut reader)?;
        if is_type && let Some(declarations) = skip_or_open_type(&mut reader)? {
            depth_max = depth_max.max(left.len());
            left.push(declarations);
        }
    }
    Ok(depth_max)
}

/// Reads a declaration in a type of a component or instance; when it declares a type, only up to
/// that type, and says so.
fn skip_to_type(reader: &mut BinaryReader<'_>) -> wasmparser::Result<bool> {
    let mut ahead = reader.clone();
    if ahead.read_u8()? == 0x01 {
        *reader = ahead;
        return Ok(true);
    }
    // Instances have the same declarations but for imports, which the validator refuses there.
    reader.read::<ComponentTypeDeclaration<'_>>().map(|_| false)
}

/// Reads a type; of a component (0x41) or instance (0x42) only how many declarations it has.
fn skip_or_open_type(reader: &mut BinaryReader<'_>) -> wasmparser::Result<Option<u32>> {
    let mut ahead = reader.clone();
    if matches!(ahead.read_u8()?, 0x41 | 0x42) {
        let declarations = ahead.read_var_u32()?;
        *reader = ahead;
        return Ok(Some(declarations));
    }
    reader.read::<ComponentType<'_>>().map(|_| None)
}

pub(crate) fn refuse_deep(depth: usize) -> Result<(), Outcome> {
    if depth <= COMPONENT_DEPTH_MAX {
        return Ok(());
    }
    let message = format!("nests components or their types more than {COMPONENT_DEPTH_MAX} deep");
    Err(Outcome { retryable: false, ..Outcome::limited(Limit::Compile, message) })
}

/// Refuses what would only cost: compiling takes seconds, and memory that nobody counts.
fn check_before_compiling(component: &[u8]) -> Result<(), Outcome> {
    let Outline { imports, depth_max } = outline(component);
    refuse_deep(depth_max)?;
    // Once more when it is linked, which is all that code from the cache goes through.
    refuse_foreign(imports).map_err(Outcome::invalid)
}

/// What the instance pool cannot hold is a limit, whatever attempt it is; everything else is no
/// valid component. wasmtime has no types for this, so its words have to do; tests hold them.
fn not_compiled(error: &wasmtime::Error) -> Outcome {
    let why = format!("{error:#}");
    let limit = if why.contains("has a minimum element size of") {
        Limit::Table
    } else if why.contains("exceeds the per-instance limit") || why.contains("exceeds the configured maximum") {
        Limit::Instances
    } else {
        return Outcome::invalid(format!("the component is not valid: {why}"));
    };
    Outcome { retryable: false, ..Outcome::limited(limit, format!("is too large: {why}")) }
}

/// The outcome for a component of too many bytes.
pub(crate) fn too_large(size: u64, max: u64) -> Outcome {
    let message = format!("has {size} bytes, more than the {max} that are compiled");
    Outcome { retryable: false, ..Outcome::limited(Limit::Compile, message) }
}

/// Checks what a compiled component imports and exports and links it.
/// Errors: an `invalid` outcome.
pub(crate) fn link(linker: &Linker<State>, digest: Digest, component: &Component) -> Result<Prepared, Box<Outcome>> {
    let invalid = |message: String| Box::new(Outcome::invalid(message));
    refuse_foreign(imports(component)).map_err(invalid)?;
    let export = find_entry(exports(component)).map_err(invalid)?;
    let linked = linker
        .instantiate_pre(component)
        .map_err(|error| invalid(format!("the component does not fit this host: {error:#}")))?;
    let entry = match export {
        Export::Run => JobPre::new(linked).map(Entry::Job),
        Export::Command => CommandPre::new(linked).map(Entry::Command),
    };
    let entry = entry.map_err(|error| invalid(format!("the component's export has the wrong type: {error:#}")))?;
    let image = component.image_range();
    let code_bytes = image.end as usize - image.start as usize;
    Ok(Prepared { digest, engine: component.engine().clone(), code_bytes, imports: imports(component), entry })
}

#[derive(PartialEq, Eq)]
pub(crate) enum Kind {
    Module,
    Component,
}

pub(crate) fn kind(bytes: &[u8]) -> Option<Kind> {
    match bytes.get(..8)? {
        [0, b'a', b's', b'm', 1, 0, 0, 0] => Some(Kind::Module),
        [0, b'a', b's', b'm', _, _, 1, 0] => Some(Kind::Component),
        _ => None,
    }
}

fn not_wasm(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "not WebAssembly: it is empty".into();
    }
    let text = bytes.iter().take(64).all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace());
    match text && bytes.trim_ascii_start().starts_with(b"(") {
        true => "not binary WebAssembly: it looks like the text format; convert it with `wasm-tools parse`".into(),
        false => "not WebAssembly: it does not begin with the four bytes `\\0asm`".into(),
    }
}

fn imports(component: &Component) -> Vec<String> {
    component
        .component_type()
        .imports(component.engine())
        // A type that a world uses from an interface is imported too; the linker fits it to the
        // interface it is from.
        .filter(|(_, import)| !matches!(import.ty, ComponentItem::Type(_) | ComponentItem::Resource(_)))
        .map(|(name, _)| name.to_owned())
        .collect()
}

pub(crate) fn refuse_foreign(mut imports: Vec<String>) -> Result<(), String> {
    imports.retain(|name| !is_granted(name));
    match imports.first() {
        None => Ok(()),
        Some(first) => Err(format!("it imports {}, which was not granted; {}", quoted(&imports), way_out(first))),
    }
}

fn is_granted(import: &str) -> bool {
    // Whether this job was granted it is seen when it starts.
    grant_for(import) != Need::Unavailable
}

/// Names that a message lists before it only counts them.
const NAMES_MAX: usize = 8;

fn quoted(names: &[String]) -> String {
    let shown = names.iter().take(NAMES_MAX).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMES_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// What the author can do about an import that is refused: the flag that would grant it.
fn way_out(import: &str) -> String {
    if let Some(flag) = grant_for(import).flag() {
        return format!("`{flag}` is what grants it");
    }
    match import.split_once('/').map_or(import, |(package, _)| package) {
        package if package.starts_with("wasi:") => {
            format!(
                "this host has WASI 0.2 (cli, io, clocks, random, filesystem, sockets) and no `{package}`, so no --grant gives it"
            )
        }
        package => format!("no --grant gives `{package}`: a job can import WASI 0.2 and `wasmjob:job`"),
    }
}

/// What is called of a component.
pub(crate) enum Export {
    Run,
    Command,
}

/// What an export is, as far as it matters here.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exported {
    Func,
    Instance,
    Other,
}

fn exports(component: &Component) -> Vec<(String, Exported)> {
    let exports = component.component_type();
    let exports = exports.exports(component.engine()).map(|(name, item)| {
        let exported = match item.ty {
            ComponentItem::ComponentFunc(_) => Exported::Func,
            ComponentItem::ComponentInstance(_) => Exported::Instance,
            _ => Exported::Other,
        };
        (name.to_owned(), exported)
    });
    exports.collect()
}

/// What is called of a component with these exports.
/// Errors: why nothing is.
pub(crate) fn find_entry(exports: impl IntoIterator<Item = (String, Exported)>) -> Result<Export, String> {
    let mut names = Vec::new();
    let mut command = false;
    for (name, exported) in exports {
        match exported {
            Exported::Func if name == "run" => return Ok(Export::Run),
            Exported::Instance if name.starts_with("wasi:cli/run@0.2.") => command = true,
            _ => names.push(name),
        }
    }
    match (command, names.is_empty()) {
        (true, _) => Ok(Export::Command),
        (false, true) => Err(format!("it exports nothing; {WANTED}")),
        (false, false) => Err(format!("it exports {}; {WANTED}", quoted(&names))),
    }
}

const WANTED: &str = "a job exports `run` of the world `wasmjob:job/job`, or `wasi:cli/run` as a command";
