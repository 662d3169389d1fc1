//! What is in a component, told without compiling it and without running anything of it.
//!
//! For a person who decides what to grant and which limits to set. It finds what admission finds
//! before it compiles, in the same words, except for what only compiling shows: that the types of
//! interfaces fit, and that the instance pool is large enough.

use serde::Serialize;
use wasmparser::{
    ComponentExternalKind, Parser, Payload, ProducersSectionReader, Validator,
    component_types::{ComponentDefinedType, ComponentValType},
    types::Types,
};

use crate::{
    blob::Digest,
    component::{self, Exported},
    engine,
    imports::{Need, grant_for},
    report::Outcome,
    signature::{self, PublicKey},
};

/// Memories and tools that are listed; files of strangers can have any number.
const LISTED_MAX: usize = 64;

/// What a component is and needs.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// Of the bytes as they were given.
    pub digest: Digest,
    /// Length in bytes.
    pub size: u64,
    /// Which of the kinds of job it is; nothing if it is none.
    pub kind: Option<JobKind>,
    /// Why it cannot run, whatever is granted, or what it needs that no flag gives.
    pub problem: Option<String>,
    /// What it exports.
    pub exports: Vec<Export>,
    /// What it imports: for a plain module, what it imports once it is adapted.
    pub imports: Vec<Import>,
    /// The code inside.
    pub core: CoreFacts,
    /// What it was made with, as it says itself.
    pub producers: Vec<Producer>,
    /// Who signed it.
    pub signatures: Vec<SignedBy>,
    /// Why its signatures cannot be read.
    pub signature_problem: Option<String>,
}

/// The kinds of file a job can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum JobKind {
    /// A component that exports `run` of the world `wasmjob:job/job`.
    Job,
    /// A component that exports `wasi:cli/run`.
    Command,
    /// A plain module, which is adapted when it is compiled.
    Module,
}

/// Something a component exports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Export {
    /// Its name.
    pub name: String,
    /// `func`, `instance`, ...
    pub kind: &'static str,
}

/// Something a component imports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Import {
    /// The interface with its version.
    pub name: String,
    /// `nothing`, `optional`, `grant` or `unavailable`.
    #[serde(serialize_with = "need_name")]
    pub needs: Need,
    /// The flag that gives it, or gives it its use.
    pub flag: Option<&'static str>,
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn need_name<S: serde::Serializer>(need: &Need, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(need.name())
}

/// All core modules together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CoreFacts {
    /// How many there are.
    pub modules: u64,
    /// Functions in them.
    pub functions: u64,
    /// Bytes of code of these functions.
    pub code_bytes: u64,
    /// Their memories, at most 64.
    pub memories: Vec<Memory>,
}

/// A linear memory, in pages of 64 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// What it begins with.
    pub pages_min: u64,
    /// What it can grow to by its own account.
    pub pages_max: Option<u64>,
}

/// A language or tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Producer {
    /// `language`, `processed-by` or `sdk`.
    pub field: String,
    /// Its name.
    pub name: String,
    /// Its version, if it says one.
    pub version: String,
}

/// A signature that was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SignedBy {
    /// Who is said to have signed.
    pub key: PublicKey,
    /// Whether that is true.
    pub valid: bool,
}

/// Looks into a component. Takes up to seconds for a large one; call it where that is allowed.
#[must_use]
pub fn inspect(bytes: &[u8]) -> Inspection {
    let (signatures, signature_problem) = match signature::signatures(bytes) {
        Ok(all) => (all.into_iter().map(|(key, valid)| SignedBy { key, valid }).collect(), None),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    let mut found = Inspection {
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        kind: None,
        problem: None,
        exports: Vec::new(),
        imports: Vec::new(),
        core: CoreFacts::default(),
        producers: Vec::new(),
        signatures,
        signature_problem,
    };
    found.problem = found.look_into(bytes).err().map(|outcome| outcome.message.unwrap_or_default());
    found
}

impl Inspection {
    fn look_into(&mut self, bytes: &[u8]) -> Result<(), Box<Outcome>> {
        let invalid = |message: String| Box::new(Outcome::invalid(message));
        let is_module = component::kind(bytes) == Some(component::Kind::Module);
        self.kind = is_module.then_some(JobKind::Module);
        self.count(bytes);
        let component = component::as_component(bytes)?;
        let outline = component::outline(&component);
        self.imports = outline.imports.iter().map(|name| import(name)).collect();
        component::refuse_deep(outline.depth_max)?;
        let types = Validator::new_with_features(engine::features()).validate_all(&component);
        let types = types.map_err(|error| invalid(format!("the component is not valid: {error}")))?;
        let mut unavailable = outline.imports;
        unavailable.retain(|name| grant_for(name) == Need::Unavailable);
        let exports = exports(&component);
        self.exports = exports.iter().map(|export| export.shown()).collect();
        component::refuse_foreign(unavailable).map_err(invalid)?;
        let named = exports.iter().map(|export| (export.name.to_owned(), export.exported()));
        let kind = match component::find_entry(named).map_err(invalid)? {
            component::Export::Command => JobKind::Command,
            component::Export::Run => JobKind::Job,
        };
        self.kind.get_or_insert(kind);
        match exports.iter().find(|export| export.name == "run") {
            Some(run) if kind == JobKind::Job && !is_run(&types, run.index) => Err(invalid(WRONG_RUN.into())),
            _ => Ok(()),
        }
    }

    /// Adds up what is in all modules, however deep they are.
    fn count(&mut self, bytes: &[u8]) {
        for payload in Parser::new(0).parse_all(bytes).map_while(Result::ok) {
            match payload {
                Payload::Version { encoding: wasmparser::Encoding::Module, .. } => self.core.modules += 1,
                Payload::CodeSectionStart { count, size, .. } => {
                    self.core.functions += u64::from(count);
                    self.core.code_bytes += u64::from(size);
                }
                Payload::MemorySection(memories) => {
                    let memories = memories.into_iter().map_while(Result::ok);
                    let memories =
                        memories.map(|memory| Memory { pages_min: memory.initial, pages_max: memory.maximum });
                    let room = LISTED_MAX.saturating_sub(self.core.memories.len());
                    self.core.memories.extend(memories.take(room));
                }
                Payload::CustomSection(section) => {
                    if let wasmparser::KnownCustom::Producers(producers) = section.as_known() {
                        self.add_producers(producers);
                    }
                }
                _ => {}
            }
        }
    }

    fn add_producers(&mut self, producers: ProducersSectionReader<'_>) {
        for field in producers.into_iter().map_while(Result::ok) {
            for value in field.values.into_iter().map_while(Result::ok) {
                let producer = Producer {
                    field: field.name.to_owned(),
                    name: value.name.to_owned(),
                    version: value.version.to_owned(),
                };
                if self.producers.len() == LISTED_MAX {
                    return;
                }
                if !self.producers.contains(&producer) {
                    self.producers.push(producer);
                }
            }
        }
    }
}

const WRONG_RUN: &str = "the component's export has the wrong type: `run` is not that of the world `wasmjob:job/job`";

fn import(name: &str) -> Import {
    let needs = grant_for(name);
    Import { name: name.to_owned(), needs, flag: needs.flag() }
}

/// An export of the outermost component.
struct Found<'a> {
    name: &'a str,
    kind: ComponentExternalKind,
    index: u32,
}

impl Found<'_> {
    fn shown(&self) -> Export {
        let kind = match self.kind {
            ComponentExternalKind::Module => "module",
            ComponentExternalKind::Func => "func",
            ComponentExternalKind::Value => "value",
            ComponentExternalKind::Type => "type",
            ComponentExternalKind::Instance => "instance",
            ComponentExternalKind::Component => "component",
        };
        Export { name: self.name.to_owned(), kind }
    }

    fn exported(&self) -> Exported {
        match self.kind {
            ComponentExternalKind::Func => Exported::Func,
            ComponentExternalKind::Instance => Exported::Instance,
            _ => Exported::Other,
        }
    }
}

/// The exports of a component that is valid.
fn exports(component: &[u8]) -> Vec<Found<'_>> {
    let (mut exports, mut depth) = (Vec::new(), 0_usize);
    for payload in Parser::new(0).parse_all(component).map_while(Result::ok) {
        match payload {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentExportSection(found) if depth == 0 => {
                let found = found.into_iter().map_while(Result::ok);
                exports.extend(found.map(|export| Found {
                    name: export.name.name,
                    kind: export.kind,
                    index: export.index,
                }));
            }
            _ => {}
        }
    }
    exports
}

/// Whether this function of a valid component takes one blob and returns an output or a failure, as
/// far as that shows without the interface.
fn is_run(types: &Types, index: u32) -> bool {
    if index >= types.component_function_count() {
        return false;
    }
    let function = &types[types.component_function_at(index)];
    let defined = |of: &ComponentValType| match of {
        ComponentValType::Type(id) => Some(&types[*id]),
        ComponentValType::Primitive(_) => None,
    };
    let [(_, input)] = &*function.params else { return false };
    let takes_one_handle = matches!(defined(input), Some(ComponentDefinedType::Own(_)));
    let result = function.result.as_ref().and_then(defined);
    takes_one_handle && matches!(result, Some(ComponentDefinedType::Result { ok: Some(_), err: Some(_), .. }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(text: &str) -> Inspection {
        inspect(&wat::parse_str(text).unwrap())
    }

    #[test]
    fn what_is_valid_here_is_valid_to_the_compiler() {
        let engine = engine::engine(1, engine::Variant::Fast, 1 << 20).unwrap();
        for (module, valid) in [
            ("(memory 1)", true),
            ("(func (param v128))", true),
            ("(func $f (return_call $f))", true),
            ("(global i32 (i32.add (i32.const 1) (i32.const 2)))", true),
            ("(table 1 funcref) (table 1 funcref)", true),
            ("(func (result i32 i32) (i32.const 1) (i32.const 2))", true),
            ("(memory 1 1 shared)", false),
            ("(memory i64 1)", false),
            ("(memory 1) (memory 1)", false),
            ("(func (param v128) (drop (i8x16.relaxed_swizzle (local.get 0) (local.get 0))))", false),
            ("(tag)", false),
            ("(func (param (ref func)))", false),
            ("(type (struct))", false),
            ("(table 1 externref)", false),
            ("(memory 1 (pagesize 1))", false),
            ("(func (param i64 i64) (result i64 i64) (i64.mul_wide_s (local.get 0) (local.get 1)))", false),
        ] {
            let component = wat::parse_str(format!("(component (core module {module}))")).unwrap();
            let compiled = wasmtime::component::Component::from_binary(&engine, &component);
            let found = inspect(&component).problem.unwrap();
            assert_eq!(compiled.is_ok(), valid, "{module}: {:?}", compiled.err());
            assert_eq!(!found.contains("not valid"), valid, "{module}: {found}");
        }
    }

    #[test]
    fn the_code_inside_is_counted_however_deep_it_is() {
        let found = of(r#"(component
            (core module (memory 2 10) (func) (func))
            (component (core module (memory 1) (func)
              (@producers (language "Rust" "1.95") (processed-by "rustc" "1.95")))))"#);
        let memories = [Memory { pages_min: 2, pages_max: Some(10) }, Memory { pages_min: 1, pages_max: None }];
        assert_eq!((found.core.modules, found.core.functions), (2, 3));
        assert_eq!(found.core.memories, memories);
        assert!(found.core.code_bytes > 0);
        let named: Vec<_> = found.producers.iter().map(|producer| producer.name.as_str()).collect();
        assert_eq!(named, ["Rust", "rustc"]);
        assert!(found.problem.unwrap().contains("exports nothing"));
    }

    #[test]
    fn bytes_cut_off_anywhere_are_looked_at_and_nothing_panics() {
        let whole = wat::parse_str(r#"(component (core module (memory 2 10) (func)) (import "a:b/c" (instance)))"#);
        let whole = whole.unwrap();
        for at in 0..whole.len() {
            assert!(inspect(&whole[..at]).problem.is_some(), "{at}");
            let mut changed = whole.clone();
            for value in [0, 0x7f, 0xff] {
                changed[at] = value;
                let _ = inspect(&changed);
            }
        }
    }
}
