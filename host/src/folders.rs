//! Folders that only this user can read.

use std::{fs, io, path::Path};

/// Makes `path` and what is missing above it, for this user alone.
pub fn private(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}
