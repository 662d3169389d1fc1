//! Every call of `wasi:filesystem/types`: what it costs, what it may, and then how WASI does it.

use std::os::unix::fs::FileExt;

use wasmtime::component::Resource;
use wasmtime_wasi::{
    filesystem::{Descriptor, OpenMode},
    p2::{
        DynInputStream, DynOutputStream, FsError, FsResult,
        bindings::filesystem::types::{
            Advice, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry, DirectoryEntryStream, ErrorCode,
            Filesize, Host, HostDescriptor, HostDirectoryEntryStream, MetadataHashValue, NewTimestamp, OpenFlags,
            PathFlags,
        },
    },
};

use super::{Files, Root, borrowed, listing::Listing, open::Wanted, streams::Reader};
use crate::{limits, stdio::STREAM_BYTES};

impl Host for Files<'_> {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<ErrorCode> {
        self.wasi().convert_error_code(error)
    }

    fn filesystem_error_code(&mut self, error: Resource<wasmtime::Error>) -> wasmtime::Result<Option<ErrorCode>> {
        self.wasi().filesystem_error_code(error)
    }
}

impl HostDescriptor for Files<'_> {
    fn read_via_stream(&mut self, fd: Resource<Descriptor>, offset: Filesize) -> FsResult<Resource<DynInputStream>> {
        if let Descriptor::Dir(_) = self.0.table.get(&fd)? {
            return Err(ErrorCode::IsDirectory.into());
        }
        let file = self.file(&fd, OpenMode::READ)?.clone();
        let open = self.another_open().map_err(FsError::trap)?;
        let reader = Reader { file, at: offset, charges: self.0.charges.clone(), _open: open };
        Ok(self.0.table.push::<DynInputStream>(Box::new(reader))?)
    }

    fn write_via_stream(&mut self, fd: Resource<Descriptor>, offset: Filesize) -> FsResult<Resource<DynOutputStream>> {
        self.write_stream(&fd, Some(offset))
    }

    fn append_via_stream(&mut self, fd: Resource<Descriptor>) -> FsResult<Resource<DynOutputStream>> {
        self.write_stream(&fd, None)
    }

    async fn advise(
        &mut self,
        fd: Resource<Descriptor>,
        offset: Filesize,
        len: Filesize,
        advice: Advice,
    ) -> FsResult<()> {
        self.wasi().advise(fd, offset, len, advice).await
    }

    async fn sync_data(&mut self, fd: Resource<Descriptor>) -> FsResult<()> {
        // Nobody reads a scratch folder after a crash.
        if self.root(&fd)? == Root::Scratch {
            return Ok(());
        }
        self.0.charge(limits::SYNC_FUEL);
        self.wasi().sync_data(fd).await
    }

    async fn sync(&mut self, fd: Resource<Descriptor>) -> FsResult<()> {
        if self.root(&fd)? == Root::Scratch {
            return Ok(());
        }
        self.0.charge(limits::SYNC_FUEL);
        self.wasi().sync(fd).await
    }

    async fn get_flags(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorFlags> {
        self.wasi().get_flags(fd).await
    }

    async fn get_type(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorType> {
        self.wasi().get_type(fd).await
    }

    async fn set_size(&mut self, fd: Resource<Descriptor>, size: Filesize) -> FsResult<()> {
        self.0.charge(limits::PATH_FUEL);
        self.extend(&fd, Some(size), 0)?;
        Ok(self.file(&fd, OpenMode::WRITE)?.set_len(size)?)
    }

    async fn set_times(&mut self, fd: Resource<Descriptor>, atim: NewTimestamp, mtim: NewTimestamp) -> FsResult<()> {
        let perms = match self.0.table.get(&fd)? {
            Descriptor::File(file) => file.perms,
            Descriptor::Dir(folder) => folder.perms,
        };
        if perms.write_not_permitted() {
            return Err(ErrorCode::ReadOnly.into());
        }
        self.wasi().set_times(fd, atim, mtim).await
    }

    async fn read(&mut self, fd: Resource<Descriptor>, len: Filesize, offset: Filesize) -> FsResult<(Vec<u8>, bool)> {
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX).min(STREAM_BYTES)];
        let read = self.file(&fd, OpenMode::READ)?.read_at(&mut bytes, offset)?;
        bytes.truncate(read);
        self.0.charge_bytes(read);
        Ok((bytes, read == 0))
    }

    async fn write(&mut self, fd: Resource<Descriptor>, bytes: Vec<u8>, offset: Filesize) -> FsResult<Filesize> {
        self.0.charge_bytes(bytes.len());
        self.extend(&fd, Some(offset), bytes.len() as u64)?;
        Ok(self.file(&fd, OpenMode::WRITE)?.write_at(&bytes, offset)? as u64)
    }

    async fn read_directory(&mut self, fd: Resource<Descriptor>) -> FsResult<Resource<DirectoryEntryStream>> {
        self.0.charge(limits::PATH_FUEL);
        let open = self.another_open().map_err(FsError::trap)?;
        let listing = Listing::of(&self.folder(&fd)?.dir, open)?;
        self.0.meter.hold(limits::LISTING_BYTES).map_err(FsError::trap)?;
        let listing = self.0.table.push(listing)?;
        // A number in the table; that wasmtime has a type of its own there does not matter to guests.
        Ok(Resource::new_own(listing.rep()))
    }

    async fn create_directory_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        self.path(&path)?;
        let root = self.changing(&fd)?;
        self.grow(root, 0, 1)?;
        self.wasi().create_directory_at(fd, path).await
    }

    async fn stat(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorStat> {
        self.wasi().stat(fd).await
    }

    async fn stat_at(&mut self, fd: Resource<Descriptor>, flags: PathFlags, path: String) -> FsResult<DescriptorStat> {
        self.path(&path)?;
        self.wasi().stat_at(fd, flags, path).await
    }

    async fn set_times_at(
        &mut self,
        fd: Resource<Descriptor>,
        flags: PathFlags,
        path: String,
        atim: NewTimestamp,
        mtim: NewTimestamp,
    ) -> FsResult<()> {
        self.path(&path)?;
        self.changing(&fd)?;
        if !flags.contains(PathFlags::SYMLINK_FOLLOW) {
            return self.wasi().set_times_at(fd, flags, path, atim, mtim).await;
        }
        // wasmtime's own host opens what is there to do this, a pipe as well.
        let opened = self.open(&fd, path, Wanted::reading(flags)).await?;
        let opened = self.0.table.push(opened)?;
        let set = self.wasi().set_times(borrowed(&opened), atim, mtim).await;
        self.0.table.delete(opened)?;
        set
    }

    async fn link_at(
        &mut self,
        fd: Resource<Descriptor>,
        flags: PathFlags,
        path: String,
        new_fd: Resource<Descriptor>,
        new_path: String,
    ) -> FsResult<()> {
        self.path(&path)?;
        self.path(&new_path)?;
        let root = self.changing_both(&fd, &new_fd)?;
        self.grow(root, 0, 1)?;
        self.wasi().link_at(fd, flags, path, new_fd, new_path).await
    }

    async fn open_at(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
        open_flags: OpenFlags,
        flags: DescriptorFlags,
    ) -> FsResult<Resource<Descriptor>> {
        self.path(&path)?;
        let (root, wanted) = (self.root(&fd)?, Wanted { path: path_flags, open: open_flags, flags });
        self.grow(root, 0, u64::from(wanted.creates()))?;
        let opened = self.open(&fd, path, wanted).await?;
        self.hand_out(opened, root).map_err(FsError::trap)
    }

    fn drop(&mut self, fd: Resource<Descriptor>) -> wasmtime::Result<()> {
        self.0.files.roots.remove(&fd.rep());
        self.0.table.delete(fd)?;
        Ok(())
    }

    async fn readlink_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<String> {
        self.path(&path)?;
        self.wasi().readlink_at(fd, path).await
    }

    async fn remove_directory_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        self.path(&path)?;
        let root = self.changing(&fd)?;
        // `rmdir` allows a slash at the end, wasmtime's own host does not.
        let name = match path.trim_end_matches('/') {
            "" => path,
            name => name.to_owned(),
        };
        self.wasi().remove_directory_at(fd, name).await?;
        self.removed(root);
        Ok(())
    }

    async fn rename_at(
        &mut self,
        fd: Resource<Descriptor>,
        path: String,
        new_fd: Resource<Descriptor>,
        new_path: String,
    ) -> FsResult<()> {
        self.path(&path)?;
        self.path(&new_path)?;
        self.changing_both(&fd, &new_fd)?;
        self.wasi().rename_at(fd, path, new_fd, new_path).await
    }

    async fn symlink_at(&mut self, fd: Resource<Descriptor>, target: String, path: String) -> FsResult<()> {
        self.path(&target)?;
        self.path(&path)?;
        let root = self.changing(&fd)?;
        self.grow(root, target.len() as u64, 1)?;
        self.wasi().symlink_at(fd, target, path).await
    }

    async fn unlink_file_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        self.path(&path)?;
        let root = self.changing(&fd)?;
        self.wasi().unlink_file_at(fd, path).await?;
        self.removed(root);
        Ok(())
    }

    async fn is_same_object(&mut self, a: Resource<Descriptor>, b: Resource<Descriptor>) -> wasmtime::Result<bool> {
        self.wasi().is_same_object(a, b).await
    }

    async fn metadata_hash(&mut self, fd: Resource<Descriptor>) -> FsResult<MetadataHashValue> {
        self.wasi().metadata_hash(fd).await
    }

    async fn metadata_hash_at(
        &mut self,
        fd: Resource<Descriptor>,
        flags: PathFlags,
        path: String,
    ) -> FsResult<MetadataHashValue> {
        self.path(&path)?;
        self.wasi().metadata_hash_at(fd, flags, path).await
    }
}

impl HostDirectoryEntryStream for Files<'_> {
    async fn read_directory_entry(
        &mut self,
        listing: Resource<DirectoryEntryStream>,
    ) -> FsResult<Option<DirectoryEntry>> {
        self.0.charge(limits::ENTRY_FUEL);
        self.0.table.get_mut(&Resource::<Listing>::new_borrow(listing.rep()))?.next()
    }

    fn drop(&mut self, listing: Resource<DirectoryEntryStream>) -> wasmtime::Result<()> {
        self.0.table.delete(Resource::<Listing>::new_own(listing.rep()))?;
        self.0.meter.release(limits::LISTING_BYTES);
        Ok(())
    }
}
