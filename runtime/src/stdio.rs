//! Standard input, output and error of a guest.
//!
//! Input comes from a blob, output goes into one and stops at its limit, standard error is kept up
//! to a limit and counted beyond it. Nothing here ever waits: the bytes are on this machine.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wasmtime_wasi::{
    cli::{IsTerminal, StdinStream, StdoutStream},
    p2::{InputStream, OutputStream, Pollable, StreamError},
};

use crate::{
    blob::{Blob, BlobError, BlobWriter},
    limits::{LOG_LINE_BYTES_MAX, Limit},
    log::{LogSink, LogStream},
    meter::{Charges, LimitReached},
};

/// Bytes a stream hands over or takes at once.
pub(crate) const STREAM_BYTES: usize = 64 * 1024;
/// How much of the end of standard error is kept for the message of a failed attempt.
const TAIL_BYTES: usize = 512;

/// State that the store and its streams share. A panic while it was held concerns this attempt
/// only, which is over then.
pub(crate) struct Shared<T>(Arc<Mutex<T>>);

impl<T> Shared<T> {
    pub(crate) fn new(value: T) -> Self {
        Shared(Arc::new(Mutex::new(value)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Shared(self.0.clone())
    }
}

/// Standard input: a blob, read once from start to end however many handles the guest asks for.
#[derive(Clone)]
pub(crate) struct Stdin {
    at: Shared<(Blob, u64)>,
    charges: Charges,
}

impl Stdin {
    pub(crate) fn new(input: Blob, charges: Charges) -> Self {
        Stdin { at: Shared::new((input, 0)), charges }
    }

    fn take(&self, len: usize) -> Result<Bytes, BlobError> {
        let mut guard = self.at.lock();
        let (input, position) = &mut *guard;
        let bytes = input.read_at(*position, len as u64)?;
        *position += bytes.len() as u64;
        self.charges.bytes(bytes.len());
        Ok(bytes)
    }
}

impl IsTerminal for Stdin {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdinStream for Stdin {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Stdin {
    async fn ready(&mut self) {}
}

#[wasmtime_wasi::async_trait]
impl InputStream for Stdin {
    fn read(&mut self, size: usize) -> Result<Bytes, StreamError> {
        let bytes = self.take(size.min(STREAM_BYTES)).map_err(|error| StreamError::Trap(error.into()))?;
        if bytes.is_empty() && size > 0 { Err(StreamError::Closed) } else { Ok(bytes) }
    }
}

impl AsyncRead for Stdin {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let bytes = self.take(buf.remaining()).map_err(io::Error::other)?;
        buf.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

/// Where a guest's bytes go.
pub(crate) trait Sink: Send + 'static {
    /// Takes all of `bytes` or says why not.
    fn take(&mut self, bytes: &[u8]) -> wasmtime::Result<()>;
}

/// Standard output or standard error of a guest.
pub(crate) struct GuestOutput<S>(pub(crate) Shared<S>);

impl<S> Clone for GuestOutput<S> {
    fn clone(&self) -> Self {
        GuestOutput(self.0.clone())
    }
}

impl<S: Sink> IsTerminal for GuestOutput<S> {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl<S: Sink> StdoutStream for GuestOutput<S> {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl<S: Sink> Pollable for GuestOutput<S> {
    async fn ready(&mut self) {}
}

#[wasmtime_wasi::async_trait]
impl<S: Sink> OutputStream for GuestOutput<S> {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        self.0.lock().take(&bytes).map_err(StreamError::Trap)
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        Ok(())
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        Ok(STREAM_BYTES)
    }
}

impl<S: Sink> AsyncWrite for GuestOutput<S> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(self.0.lock().take(buf).map(|()| buf.len()).map_err(io::Error::other))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What a job puts out, however it does: what it prints, the artifacts it writes and what it returns
/// share one limit. A command that prints more ends there, and the part that fitted is kept.
pub(crate) struct Output {
    writer: BlobWriter,
    left: u64,
    charges: Charges,
}

impl Output {
    pub(crate) fn new(writer: BlobWriter, limit: u64, charges: Charges) -> Self {
        Output { writer, left: limit, charges }
    }

    /// Takes `bytes` off the limit, all of them or, if it does not allow them, none.
    pub(crate) fn spend(&mut self, bytes: u64) -> bool {
        let left = self.left.checked_sub(bytes);
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }

    /// Appends what the limit allows of `bytes`; says whether that was all.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<bool> {
        let fits = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        self.left -= fits as u64;
        self.charges.bytes(bytes.len());
        self.writer.write(&bytes[..fits])?;
        Ok(fits == bytes.len())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.writer.is_empty()
    }

    /// The bytes so far as a blob.
    pub(crate) fn finish(&mut self, empty: BlobWriter) -> io::Result<Blob> {
        std::mem::replace(&mut self.writer, empty).finish()
    }
}

impl Sink for Output {
    fn take(&mut self, bytes: &[u8]) -> wasmtime::Result<()> {
        if self.write(bytes)? { Ok(()) } else { Err(LimitReached(Limit::Output).into()) }
    }
}

/// Standard error and log lines: kept up to a limit, counted beyond it.
pub(crate) struct Log {
    sink: Arc<dyn LogSink>,
    left: u64,
    dropped: u64,
    tail: VecDeque<u8>,
    charges: Charges,
}

impl Log {
    pub(crate) fn new(sink: Arc<dyn LogSink>, limit: u64, charges: Charges) -> Self {
        Log { sink, left: limit, dropped: 0, tail: VecDeque::new(), charges }
    }

    /// Passes on what of `bytes` the limit allows.
    pub(crate) fn write(&mut self, stream: LogStream, bytes: &[u8]) {
        let fits = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        self.left -= fits as u64;
        self.charges.bytes(bytes.len());
        self.dropped += (bytes.len() - fits) as u64;
        if fits > 0 {
            self.sink.write(stream, &bytes[..fits]);
        }
        if stream == LogStream::Stderr {
            self.tail.extend(&bytes[bytes.len().saturating_sub(TAIL_BYTES)..]);
            let excess = self.tail.len().saturating_sub(TAIL_BYTES);
            self.tail.drain(..excess);
        }
    }

    /// Adds one line, cut to the longest a line may be.
    pub(crate) fn line(&mut self, stream: LogStream, message: &str) {
        let cut = floor_char_boundary(message, LOG_LINE_BYTES_MAX);
        self.dropped += (message.len() - cut) as u64;
        self.write(stream, &message.as_bytes()[..cut]);
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The last lines of standard error, for the message of an attempt that failed.
    pub(crate) fn tail(&self) -> Option<String> {
        let bytes: Vec<u8> = self.tail.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        (!text.is_empty()).then_some(text)
    }
}

impl Sink for Log {
    fn take(&mut self, bytes: &[u8]) -> wasmtime::Result<()> {
        self.write(LogStream::Stderr, bytes);
        Ok(())
    }
}

/// The longest prefix of `text` of at most `max` bytes that ends between two characters.
pub(crate) fn floor_char_boundary(text: &str, max: usize) -> usize {
    if text.len() <= max { text.len() } else { (0..=max).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0) }
}
