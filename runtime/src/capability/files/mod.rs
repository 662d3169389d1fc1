//! `wasi:filesystem`: the folders that were granted and the scratch folder, nothing else.
//!
//! How WASI behaves comes from wasmtime's own host, which resolves every path below the folder it
//! starts in. Here it is decided what a guest gets and what that costs: folders come from handles
//! that are open already, what is neither a file nor a folder is never opened, host work takes fuel,
//! and the scratch folder has a quota.

mod descriptor;
mod listing;
mod open;
mod scratch;
mod streams;
mod walk;

use std::{collections::HashMap, fs::File, sync::Arc};

use wasmtime::component::{HasData, Linker, Resource};
use wasmtime_wasi::{
    filesystem::{Descriptor, Dir, FsPerms, OpenMode, WasiFilesystemCtxView},
    p2::{
        DynOutputStream, FsError, FsResult,
        bindings::filesystem::{
            preopens,
            types::{self, DescriptorType, ErrorCode, HostDescriptor as _},
        },
    },
};

use self::{
    open::{Wanted, beneath},
    scratch::ScratchFolder,
    streams::Writer,
};
use crate::{
    grants::SCRATCH_PATH,
    limits::{self, Limit},
    meter::LimitReached,
    stdio::Shared,
    store::State,
};

pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    preopens::add_to_linker::<_, OwnFiles>(linker, |state| Files::of(state))?;
    types::add_to_linker::<_, OwnFiles>(linker, |state| Files::of(state))
}

/// Says which type `Files` is with which lifetime.
struct OwnFiles;

impl HasData for OwnFiles {
    type Data<'a> = Files<'a>;
}

/// What an attempt has open.
#[derive(Default)]
pub(crate) struct OpenFiles {
    /// What each descriptor is below, by its number in the table.
    roots: HashMap<u32, Root>,
    /// One for each stream and listing: they keep a file open as well.
    others: Open,
    scratch: Option<Shared<ScratchFolder>>,
}

/// Held by what keeps a file open besides its descriptor.
type Open = Arc<()>;

/// What was granted that a descriptor is in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Root {
    Folder(usize),
    Scratch,
}

/// `wasi:filesystem` for one call.
pub(crate) struct Files<'a>(&'a mut State);

impl<'a> Files<'a> {
    fn of(state: &'a mut State) -> Self {
        Files(state.called())
    }

    fn wasi(&mut self) -> WasiFilesystemCtxView<'_> {
        self.0.wasi_files()
    }

    /// Gives the guest a descriptor.
    fn hand_out(&mut self, descriptor: Descriptor, root: Root) -> wasmtime::Result<Resource<Descriptor>> {
        self.another_open()?;
        if let (Root::Scratch, Descriptor::File(file)) = (root, &descriptor) {
            self.scratch()?.lock().opened(&file.file);
        }
        let fd = self.0.table.push(descriptor)?;
        self.0.files.roots.insert(fd.rep(), root);
        Ok(fd)
    }

    /// Counts one more open file. Errors: there are too many.
    fn another_open(&self) -> Result<Open, LimitReached> {
        let files = &self.0.files;
        let open = files.roots.len() + Arc::strong_count(&files.others);
        if open > limits::FILES_MAX { Err(LimitReached(Limit::Handles)) } else { Ok(files.others.clone()) }
    }

    /// The scratch folder, which is made when it is first asked for.
    fn scratch(&mut self) -> wasmtime::Result<Shared<ScratchFolder>> {
        if let Some(scratch) = &self.0.files.scratch {
            return Ok(scratch.clone());
        }
        let bytes_max = self.0.grants.scratch_bytes.unwrap_or(0);
        let made = ScratchFolder::make(self.0.scratch.dir(), bytes_max, self.0.charges.clone());
        let scratch =
            Shared::new(made.map_err(|error| wasmtime::format_err!("the scratch folder cannot be made: {error}"))?);
        self.0.files.scratch = Some(scratch.clone());
        Ok(scratch)
    }

    fn root(&self, fd: &Resource<Descriptor>) -> FsResult<Root> {
        self.0.table.get(fd)?;
        // Every descriptor in the table was handed out here.
        self.0.files.roots.get(&fd.rep()).copied().ok_or_else(|| ErrorCode::BadDescriptor.into())
    }

    /// A file that was opened for this.
    fn file(&self, fd: &Resource<Descriptor>, mode: OpenMode) -> FsResult<&Arc<File>> {
        match self.0.table.get(fd)? {
            // Found out when the stream is used it would be an I/O error to the guest's C library.
            Descriptor::File(file) if file.open_mode.contains(mode) => Ok(&file.file),
            _ => Err(ErrorCode::BadDescriptor.into()),
        }
    }

    fn folder(&self, fd: &Resource<Descriptor>) -> FsResult<&Dir> {
        match self.0.table.get(fd)? {
            Descriptor::Dir(folder) => Ok(folder),
            Descriptor::File(_) => Err(ErrorCode::NotDirectory.into()),
        }
    }

    /// A folder in which something is to change, and what it is in.
    fn changing(&self, fd: &Resource<Descriptor>) -> FsResult<Root> {
        if self.folder(fd)?.perms.write_not_permitted() {
            return Err(ErrorCode::ReadOnly.into());
        }
        self.root(fd)
    }

    /// Two folders between which a name is to move: what both are in.
    fn changing_both(&self, from: &Resource<Descriptor>, to: &Resource<Descriptor>) -> FsResult<Root> {
        let (from, to) = (self.changing(from)?, self.changing(to)?);
        // Even where it is the same disk: each grant has rules of its own.
        if from == to { Ok(from) } else { Err(ErrorCode::CrossDevice.into()) }
    }

    /// Fuel for a call that resolves `path`. Errors: nothing can have so long a name.
    fn path(&self, path: &str) -> FsResult<()> {
        self.0.charge(limits::PATH_FUEL);
        if path.len() > limits::PATH_BYTES_MAX { Err(ErrorCode::NameTooLong.into()) } else { Ok(()) }
    }

    /// To be called before something grows in `root`. Errors: it may not.
    fn grow(&mut self, root: Root, bytes: u64, entries: u64) -> FsResult<()> {
        if root == Root::Scratch {
            let scratch = self.scratch().map_err(FsError::trap)?;
            scratch.lock().grow(bytes, entries).map_err(FsError::trap)?;
        }
        Ok(())
    }

    /// To be called before `len` bytes are written to a file.
    fn extend(&mut self, fd: &Resource<Descriptor>, at: Option<u64>, len: u64) -> FsResult<()> {
        if let Some(scratch) = self.quota(fd)? {
            scratch.lock().extend(self.file(fd, OpenMode::WRITE)?, at, len).map_err(FsError::trap)?;
        }
        Ok(())
    }

    /// The scratch folder if `fd` is in it.
    fn quota(&mut self, fd: &Resource<Descriptor>) -> FsResult<Option<Shared<ScratchFolder>>> {
        match self.root(fd)? {
            Root::Scratch => Ok(Some(self.scratch().map_err(FsError::trap)?)),
            Root::Folder(_) => Ok(None),
        }
    }

    fn removed(&mut self, root: Root) {
        if let (Root::Scratch, Some(scratch)) = (root, &self.0.files.scratch) {
            scratch.lock().removed_entry();
        }
    }

    async fn open(&mut self, fd: &Resource<Descriptor>, path: String, wanted: Wanted) -> FsResult<Descriptor> {
        let folder = self.folder(fd)?;
        wanted.check(folder.perms)?;
        let (perms, opened) = (folder.perms, beneath(&folder.dir, &path, wanted));
        match opened {
            Some(opened) => wanted.descriptor(opened?, perms),
            None => self.open_without_kernel(fd, path, wanted).await,
        }
    }

    /// Where the kernel cannot resolve paths: as wasmtime does it, after a look at what is there.
    async fn open_without_kernel(
        &mut self,
        fd: &Resource<Descriptor>,
        path: String,
        wanted: Wanted,
    ) -> FsResult<Descriptor> {
        use DescriptorType::{Directory, RegularFile, SymbolicLink};
        let there = self.wasi().stat_at(borrowed(fd), wanted.path, path.clone()).await;
        if there.is_ok_and(|stat| !matches!(stat.type_, RegularFile | Directory | SymbolicLink)) {
            return Err(ErrorCode::NotPermitted.into());
        }
        let opened = self.wasi().open_at(borrowed(fd), wanted.path, path, wanted.open, wanted.flags).await?;
        Ok(self.0.table.delete(opened)?)
    }

    fn write_stream(&mut self, fd: &Resource<Descriptor>, at: Option<u64>) -> FsResult<Resource<DynOutputStream>> {
        let (file, scratch) = (self.file(fd, OpenMode::WRITE)?.clone(), self.quota(fd)?);
        let open = self.another_open().map_err(FsError::trap)?;
        let writer = Writer { file, at, scratch, charges: self.0.charges.clone(), _open: open };
        Ok(self.0.table.push::<DynOutputStream>(Box::new(writer))?)
    }
}

/// The same descriptor, for a call to wasmtime's own host.
fn borrowed(fd: &Resource<Descriptor>) -> Resource<Descriptor> {
    Resource::new_borrow(fd.rep())
}

/// An error of the system as WASI has it.
fn system(error: rustix::io::Errno) -> FsError {
    std::io::Error::from(error).into()
}

impl preopens::Host for Files<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        let mut found = Vec::new();
        // What is in a folder differs from run to run.
        if self.0.virtual_clock.is_some() {
            return Ok(found);
        }
        for (number, folder) in self.0.grants.folders.clone().into_iter().enumerate() {
            let dir = preopen(folder.dir.try_clone()?, folder.write);
            found.push((self.hand_out(dir, Root::Folder(number))?, folder.guest));
        }
        if self.0.grants.scratch_bytes.is_some() {
            let dir = self.scratch()?.lock().dir()?;
            found.push((self.hand_out(preopen(dir, true), Root::Scratch)?, SCRATCH_PATH.to_owned()));
        }
        Ok(found)
    }
}

fn preopen(dir: File, write: bool) -> Descriptor {
    Descriptor::Dir(match write {
        true => Dir::new(dir, FsPerms::ReadWrite, OpenMode::READ | OpenMode::WRITE, true),
        false => Dir::new(dir, FsPerms::ReadOnly, OpenMode::READ, true),
    })
}
