//! What a child writes to stdout and stderr: a file of bounded size, and its last words in memory.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, PipeReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Size of one log file; the one before is kept, so twice this is the most a child's log takes.
const LOG_BYTES_MAX: u64 = 8 << 20;

/// Lines kept for error messages.
const TAIL_LINES: usize = 12;

/// A line longer than this is cut, so that a child cannot make us hold everything it says.
const LINE_BYTES_MAX: u64 = 8 << 10;

/// A log shared by all lives of one child.
#[derive(Debug, Clone)]
pub(super) struct ChildLog(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    file: File,
    written: u64,
    bytes_max: u64,
    tail: VecDeque<String>,
}

impl ChildLog {
    pub fn open(path: &Path) -> std::io::Result<Self> {
        Self::bounded(path, LOG_BYTES_MAX)
    }

    fn bounded(path: &Path, bytes_max: u64) -> std::io::Result<Self> {
        let file = append(path)?;
        let written = file.metadata()?.len();
        let inner = Inner {
            path: path.to_owned(),
            file,
            written,
            bytes_max,
            tail: VecDeque::new(),
        };
        Ok(ChildLog(Arc::new(Mutex::new(inner))))
    }

    /// Copies lines from the child until it (and whoever it handed the pipe to) is gone.
    pub fn follow(&self, pipe: PipeReader) {
        let mut lines = BufReader::new(pipe);
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut lines)
                .take(LINE_BYTES_MAX)
                .read_until(b'\n', &mut line)
            {
                Ok(0) | Err(_) => return,
                Ok(_) => self.lock().line(&line),
            }
        }
    }

    /// The last lines, oldest first.
    pub fn tail(&self) -> String {
        let inner = self.lock();
        inner
            .tail
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // A log that a panic left half-written is still the log.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn line(&mut self, line: &[u8]) {
        let text = String::from_utf8_lossy(line).trim_end().to_owned();
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(text);
        // On a full disk the child goes on and its log has a gap.
        if self.file.write_all(line).is_ok() {
            self.written += line.len() as u64;
        }
        if self.written >= self.bytes_max {
            self.turn();
        }
    }

    /// Makes this file the previous one and begins a new one.
    fn turn(&mut self) {
        let mut previous = self.path.clone().into_os_string();
        previous.push(".1");
        let turned = std::fs::rename(&self.path, previous).and_then(|()| append(&self.path));
        match turned {
            Ok(file) => self.file = file,
            // Not to be moved: the bound matters more than what it holds.
            Err(_) => drop(self.file.set_len(0)),
        }
        self.written = 0;
    }
}

fn append(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_stays_bounded_and_keeps_its_last_words() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("x.log");
        let log = ChildLog::bounded(&path, 1000).unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        let writing = std::thread::spawn(move || {
            for number in 0..500 {
                writeln!(writer, "line {number}").unwrap();
            }
        });
        log.follow(reader);
        writing.join().unwrap();
        let size = |path: &Path| std::fs::metadata(path).unwrap().len();
        assert!(size(&path) <= 1010 && size(&root.path().join("x.log.1")) <= 1010);
        assert!(log.tail().ends_with("line 498\nline 499"), "{}", log.tail());
    }
}
