//! Inside a node: calls through the interfaces of `wasmjob:job`.

use std::io;

use bindings::wasmjob::job::{artifacts, context, jobs, log, names, secrets, types};

use crate::Level;

#[allow(
    missing_docs,
    unsafe_code,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    reason = "generated; crossing the border of a component is raw memory on both sides"
)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../wit",
        world: "job-with-grants",
        pub_export_macro: true,
        export_macro_name: "export_job",
        default_bindings_module: "::wasmjob::__private::bindings",
    });
}

pub use types::Blob as HostBlob;

/// Most bytes the host returns at once.
const READ_BYTES_MAX: usize = 1024 * 1024;

pub struct Blob(HostBlob);

impl Blob {
    pub fn new(handle: HostBlob) -> Blob {
        Blob(handle)
    }

    pub fn into_handle(self) -> HostBlob {
        self.0
    }

    pub fn digest(&self) -> String {
        self.0.digest()
    }

    pub fn size(&self) -> u64 {
        self.0.size()
    }

    /// At most `len` bytes, and none only at the end.
    pub fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let len = u32::try_from(len.min(READ_BYTES_MAX)).expect("1 MiB fits");
        self.0.read(offset, len).map_err(to_io)
    }
}

pub struct Writer(artifacts::Writer);

impl Writer {
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write(bytes).map_err(to_io)
    }

    pub fn finish(self) -> io::Result<Blob> {
        artifacts::Writer::finish(self.0).map(Blob).map_err(to_io)
    }
}

pub fn open(digest: &str) -> io::Result<Blob> {
    artifacts::open(digest).map(Blob).map_err(to_io)
}

pub fn create() -> io::Result<Writer> {
    artifacts::create().map(Writer).map_err(to_io)
}

/// Run as a plain command, a job keeps its standard input as an artifact: that can be read twice
/// and does not fill the job's memory.
pub fn stdin() -> io::Result<Blob> {
    let mut writer = crate::artifacts::create()?;
    io::copy(&mut io::stdin().lock(), &mut writer)?;
    let blob = writer.finish()?.into_blob();
    Ok(std::sync::Arc::into_inner(blob).expect("made one line above and not shared"))
}

pub fn named(name: &str) -> io::Result<Blob> {
    names::get(name).map(Blob).map_err(to_io)
}

pub fn set_name(name: &str, blob: &Blob) -> io::Result<()> {
    names::set(name, &blob.0).map_err(to_io)
}

pub fn submit(spec: &str) -> io::Result<String> {
    jobs::submit(spec).map_err(to_io)
}

pub fn secret(name: &str) -> io::Result<Vec<u8>> {
    secrets::get(name).map_err(to_io)
}

pub fn log(level: Level, message: &str) {
    let level = match level {
        Level::Trace => log::Level::Trace,
        Level::Debug => log::Level::Debug,
        Level::Info => log::Level::Info,
        Level::Warn => log::Level::Warn,
        Level::Error => log::Level::Error,
    };
    log::log(level, message);
}

pub fn progress(done: u64, total: Option<u64>, message: &str) {
    context::progress(done, total, message);
}

pub fn job_id() -> String {
    context::job_id()
}

pub fn attempt() -> u32 {
    context::attempt()
}

pub fn cancelled() -> bool {
    context::cancelled()
}

fn to_io(error: types::Error) -> io::Error {
    use types::Error::{Corrupt, Denied, Invalid, Limit, NotFound, Other, Unavailable};
    let (kind, message) = match error {
        NotFound(message) => (io::ErrorKind::NotFound, message),
        Denied(message) => (io::ErrorKind::PermissionDenied, message),
        Limit(message) => (io::ErrorKind::QuotaExceeded, message),
        Corrupt(message) => (io::ErrorKind::InvalidData, message),
        Invalid(message) => (io::ErrorKind::InvalidInput, message),
        Unavailable(message) => (io::ErrorKind::TimedOut, message),
        Other(message) => (io::ErrorKind::Other, message),
    };
    io::Error::new(kind, message)
}
