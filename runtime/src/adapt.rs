//! Turns a plain `wasm32-wasip1` command module into a component.
//!
//! The adapter that stands between the two WASI versions knows only success and failure, so
//! `proc_exit` is linked past it to `wasi:cli/exit`'s `exit-with-code`, which takes the same
//! argument: the exit code arrives as the program gave it. A module that shows no memory, as a few
//! lines of the text format often do not, gets one: the adapter wants to put results there.

use wasi_preview1_component_adapter_provider as provider;
use wasm_encoder::{
    ExportKind, ExportSection, ImportSection, MemorySection, MemoryType, Module, SectionId,
    reencode::{self, Reencode, RoundtripReencoder},
};
use wasmparser::{Parser, Payload, Validator, WasmFeatures};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

const WASI_P1: &str = provider::WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME;
const MEMORY: &str = "memory";
const EXIT: &str = "wasi:cli/exit@0.2.12";
/// The one interface that a rewritten module imports directly.
const EXIT_WIT: &str = "
package wasmjob:adapted;
world command { import wasi:cli/exit@0.2.12; }
package wasi:cli@0.2.12 { interface exit { exit-with-code: func(status-code: u8); } }
";

/// Wraps `module` in a component that behaves the same.
/// Errors: a sentence that says what about the module stands in the way.
pub(crate) fn adapt(module: &[u8]) -> Result<Vec<u8>, String> {
    let features = WasmFeatures::default();
    let invalid = |error| format!("the module is not valid: {error}");
    Validator::new_with_features(features).validate_all(module).map_err(invalid)?;
    let shape = Shape::of(module).map_err(invalid)?;
    shape.check()?;
    let module = rewrite(module, &shape)?;
    let adapter = match shape.starts {
        true => provider::WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
        false => provider::WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
    };
    ComponentEncoder::default()
        // What is made of a module whose `_start` takes an argument, say, is no component.
        .validate(true)
        .module(&module)
        .and_then(|encoder| encoder.adapter(WASI_P1, adapter))
        .and_then(|mut encoder| encoder.encode())
        .map_err(|error| format!("the module cannot be made a component: {error:#}"))
}

/// The components in the custom sections of `module` that say which interfaces it has. The encoder
/// reads them, so whoever calls `adapt` looks at them before.
pub(crate) fn component_types(module: &[u8]) -> impl Iterator<Item = &[u8]> {
    let payloads = Parser::new(0).parse_all(module).map_while(Result::ok);
    payloads.filter_map(|payload| match payload {
        Payload::CustomSection(section) if is_component_type(section.name()) => Some(section.data()),
        _ => None,
    })
}

fn is_component_type(section: &str) -> bool {
    section.starts_with("component-type")
}

/// What matters of a module for adapting it.
#[derive(Default)]
struct Shape {
    /// Imports from elsewhere than WASI, `module.name`.
    foreign: Vec<String>,
    /// Imports `proc_exit`.
    exits: bool,
    /// Exports `_start`.
    starts: bool,
    /// Has a memory.
    memory: bool,
    /// Exports its memory under the name that WASI wants.
    shows_memory: bool,
    /// Says itself which component interfaces it has.
    typed: bool,
}

impl Shape {
    fn of(module: &[u8]) -> Result<Self, wasmparser::BinaryReaderError> {
        let mut shape = Shape::default();
        for payload in Parser::new(0).parse_all(module) {
            match payload? {
                Payload::ImportSection(imports) => {
                    for import in imports.into_imports() {
                        let import = import?;
                        shape.exits |= import.module == WASI_P1 && import.name == "proc_exit";
                        if import.module != WASI_P1 {
                            shape.foreign.push(format!("{}.{}", import.module, import.name));
                        }
                    }
                }
                Payload::ExportSection(exports) => {
                    for export in exports {
                        let name = export?.name;
                        shape.starts |= name == "_start";
                        shape.shows_memory |= name == MEMORY;
                    }
                }
                Payload::MemorySection(memories) => shape.memory |= memories.count() > 0,
                Payload::CustomSection(section) => shape.typed |= is_component_type(section.name()),
                _ => {}
            }
        }
        Ok(shape)
    }

    fn check(&self) -> Result<(), String> {
        match self.foreign.first() {
            _ if self.typed => Ok(()),
            Some(import) => Err(format!(
                "it is a core module that imports `{import}`, which nothing provides: a plain module can import \
                 `{WASI_P1}` only; anything else needs a component"
            )),
            None if !self.starts => {
                Err("it is a core module that is no command: it exports no `_start`; build it as a \
                 program (a `main`) for wasm32-wasip1 or wasm32-wasip2"
                    .into())
            }
            None => Ok(()),
        }
    }
}

/// Renames the import `proc_exit` and says in the module which interface it now belongs to; gives
/// the module a memory if it shows none.
fn rewrite(module: &[u8], shape: &Shape) -> Result<Vec<u8>, String> {
    if !shape.exits && shape.shows_memory {
        return Ok(module.to_vec());
    }
    let cannot = |error: &dyn std::fmt::Display| format!("the module cannot be rewritten: {error}");
    let mut rewritten = Module::new();
    let mut rewriter = Rewriter { add_memory: !shape.memory, show_memory: !shape.shows_memory };
    rewriter.parse_core_module(&mut rewritten, Parser::new(0), module).map_err(|error| cannot(&error))?;
    let mut bytes = rewritten.finish();
    if shape.exits {
        let mut resolve = Resolve::default();
        let package = resolve.push_str("exit.wit", EXIT_WIT).map_err(|error| cannot(&error))?;
        let world = resolve.select_world(&[package], Some("command")).map_err(|error| cannot(&error))?;
        embed_component_metadata(&mut bytes, &resolve, world, StringEncoding::UTF8).map_err(|error| cannot(&error))?;
    }
    Ok(bytes)
}

struct Rewriter {
    add_memory: bool,
    show_memory: bool,
}

type Rewritten = Result<(), reencode::Error<std::convert::Infallible>>;

impl Reencode for Rewriter {
    type Error = std::convert::Infallible;

    fn parse_import_section(
        &mut self,
        imports: &mut ImportSection,
        section: wasmparser::ImportSectionReader<'_>,
    ) -> Rewritten {
        for import in section.into_imports() {
            let import = import?;
            let entity = RoundtripReencoder.entity_type(import.ty)?;
            if import.module == WASI_P1 && import.name == "proc_exit" {
                imports.import(EXIT, "exit-with-code", entity);
            } else {
                imports.import(import.module, import.name, entity);
            }
        }
        Ok(())
    }

    /// Puts the memory where a section of memories belongs, before the next one that is there.
    fn intersperse_section_hook(
        &mut self,
        module: &mut Module,
        _: Option<SectionId>,
        before: Option<SectionId>,
    ) -> Rewritten {
        let due = matches!(before, Some(SectionId::Tag | SectionId::Global | SectionId::Export));
        if due && std::mem::take(&mut self.add_memory) {
            let page = MemoryType { minimum: 1, maximum: None, memory64: false, shared: false, page_size_log2: None };
            module.section(MemorySection::new().memory(page));
        }
        Ok(())
    }

    fn parse_export_section(
        &mut self,
        exports: &mut ExportSection,
        section: wasmparser::ExportSectionReader<'_>,
    ) -> Rewritten {
        reencode::utils::parse_export_section(self, exports, section)?;
        if self.show_memory {
            exports.export(MEMORY, ExportKind::Memory, 0);
        }
        Ok(())
    }
}
