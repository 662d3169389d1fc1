//! One variant of the engine and what belongs to it: the linker and the folder of its compiled code.

use std::{io, path::Path};

use wasmtime::{Engine, component::Linker};

use crate::{
    blob::Digest,
    capability,
    code_cache::CodeFolder,
    compiler::Code,
    component::{self, Prepared},
    engine::{self, Variant},
    report::Outcome,
    sandbox::SandboxError,
    store::State,
};

/// Turns compiled code of one variant into components that attempts can run.
pub(crate) struct Machine {
    pub(crate) engine: Engine,
    linker: Linker<State>,
    folder: Option<CodeFolder>,
}

impl Machine {
    /// For `slots` attempts at a time, with stacks of `stack_bytes`. `context` is what else compiled code
    /// depends on.
    pub(crate) fn new(
        slots: u32,
        stack_bytes: usize,
        variant: Variant,
        code_dir: Option<&Path>,
        context: &[u8],
    ) -> Result<Self, SandboxError> {
        let broken = |error: wasmtime::Error| SandboxError::Engine { reason: format!("{error:#}") };
        let engine = engine::engine(slots, variant, stack_bytes).map_err(broken)?;
        let mut linker = Linker::new(&engine);
        capability::add_to_linker(&mut linker).map_err(broken)?;
        let folder = code_dir.map(|dir| {
            let not_private = |source: io::Error| SandboxError::Setup { path: dir.to_owned(), source };
            CodeFolder::open(dir, &engine, context).map_err(not_private)
        });
        Ok(Machine { engine, linker, folder: folder.transpose()? })
    }

    /// The component from its compiled code on disk, if that is there. Blocks on the disk.
    pub(crate) fn find(&self, digest: Digest) -> Option<Result<Prepared, Box<Outcome>>> {
        let component = self.folder.as_ref()?.load(&self.engine, digest)?;
        Some(component::link(&self.linker, digest, &component))
    }

    /// The component from its compiled code, which is kept on disk. Blocks on the disk.
    pub(crate) fn take(&self, digest: Digest, code: &Code) -> Result<Prepared, Box<Outcome>> {
        let component = component::load(&self.engine, code)?;
        let prepared = component::link(&self.linker, digest, &component)?;
        if let Some(folder) = &self.folder {
            folder.save(digest, code);
        }
        Ok(prepared)
    }
}
