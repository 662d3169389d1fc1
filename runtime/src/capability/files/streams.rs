//! Reading and writing a file as a stream. WASI's own streams hand each piece to another thread, of
//! which a guest could start hundreds; here the guest's thread does it, which is quicker as well.

use std::{
    fs::File,
    io::{self, IoSlice},
    os::unix::fs::FileExt,
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError};

use super::{Open, scratch::ScratchFolder};
use crate::{
    meter::Charges,
    stdio::{STREAM_BYTES, Shared},
};

/// A file that is read from an offset on.
pub(super) struct Reader {
    pub(super) file: Arc<File>,
    pub(super) at: u64,
    pub(super) charges: Charges,
    pub(super) _open: Open,
}

#[wasmtime_wasi::async_trait]
impl Pollable for Reader {
    async fn ready(&mut self) {}
}

#[wasmtime_wasi::async_trait]
impl InputStream for Reader {
    fn read(&mut self, size: usize) -> Result<Bytes, StreamError> {
        let mut bytes = BytesMut::zeroed(size.min(STREAM_BYTES));
        let read = self.file.read_at(&mut bytes, self.at).map_err(failed)?;
        if read == 0 && size > 0 {
            return Err(StreamError::Closed);
        }
        bytes.truncate(read);
        self.at += read as u64;
        self.charges.bytes(read);
        Ok(bytes.freeze())
    }
}

/// A file that is written from an offset on, or at its end.
pub(super) struct Writer {
    pub(super) file: Arc<File>,
    /// `None`: at the end, wherever that is.
    pub(super) at: Option<u64>,
    pub(super) scratch: Option<Shared<ScratchFolder>>,
    pub(super) charges: Charges,
    pub(super) _open: Open,
}

#[wasmtime_wasi::async_trait]
impl Pollable for Writer {
    async fn ready(&mut self) {}
}

#[wasmtime_wasi::async_trait]
impl OutputStream for Writer {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        self.charges.bytes(bytes.len());
        if let Some(scratch) = &self.scratch {
            scratch.lock().extend(&self.file, self.at, bytes.len() as u64).map_err(StreamError::Trap)?;
        }
        match &mut self.at {
            None => append(&self.file, &bytes).map_err(failed),
            Some(at) => {
                self.file.write_all_at(&bytes, *at).map_err(failed)?;
                *at = at.saturating_add(bytes.len() as u64);
                Ok(())
            }
        }
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        Ok(())
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        Ok(STREAM_BYTES)
    }
}

/// The guest can ask for the code behind it, which is found by the type of the error.
fn failed(error: io::Error) -> StreamError {
    StreamError::LastOperationFailed(error.into())
}

/// Writes at the end, which nobody else's write moves in between.
#[cfg(target_os = "linux")]
fn append(file: &File, mut bytes: &[u8]) -> io::Result<()> {
    use rustix::io::{Errno, ReadWriteFlags, pwritev2};
    while !bytes.is_empty() {
        match pwritev2(file, &[IoSlice::new(bytes)], 0, ReadWriteFlags::APPEND) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(Errno::NOSYS | Errno::NOTSUP) => return append_at_size(file, bytes),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
use append_at_size as append;

/// Good enough as long as nobody else appends at the same time.
fn append_at_size(file: &File, bytes: &[u8]) -> io::Result<()> {
    file.write_all_at(bytes, file.metadata()?.len())
}
