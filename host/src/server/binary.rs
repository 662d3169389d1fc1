//! Which nats-server to run.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::ServerError;
use crate::connect::{SERVER_VERSION_MIN, parse_version};

/// How far up the tool folder is looked for: a binary lies three levels below its workspace.
const LEVELS_MAX: usize = 5;

/// A nats-server that was asked for its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binary {
    /// Where it is.
    pub path: PathBuf,
    /// What it says it is.
    pub version: String,
}

/// Finds one: `WASMJOB_NATS_SERVER`, then PATH, then `.tools/bin` of the project around this binary
/// or around the current folder.
/// One that is named must work; of the others the first that is new enough is taken, so that a
/// distribution's old one on PATH does not hide the project's own.
pub fn find_binary() -> Result<Binary, ServerError> {
    find_in(
        env::var_os("WASMJOB_NATS_SERVER").as_deref(),
        env::var_os("PATH").as_deref(),
        &[env::current_exe().ok(), env::current_dir().ok()]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>(),
    )
}

fn find_in(
    named: Option<&OsStr>,
    path: Option<&OsStr>,
    around: &[PathBuf],
) -> Result<Binary, ServerError> {
    if let Some(named) = named.filter(|named| !named.is_empty()) {
        return check(Path::new(named));
    }
    let on_path = path
        .into_iter()
        .flat_map(|path| env::split_paths(path).collect::<Vec<_>>());
    let tools = around.iter().flat_map(|start| tool_folders(start));
    let candidates = on_path
        .chain(tools)
        .map(|folder| folder.join("nats-server"));
    let mut refused = None;
    for candidate in candidates.filter(|path| path.is_file()) {
        match check(&candidate) {
            Ok(binary) => return Ok(binary),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    Err(refused.unwrap_or_else(|| ServerError::NoBinary {
        looked_at: vec![
            "WASMJOB_NATS_SERVER".into(),
            "PATH".into(),
            ".tools/bin".into(),
        ],
    }))
}

fn tool_folders(start: &Path) -> impl Iterator<Item = PathBuf> + '_ {
    start
        .ancestors()
        .take(LEVELS_MAX)
        .map(|folder| folder.join(".tools/bin"))
}

fn check(path: &Path) -> Result<Binary, ServerError> {
    let bad = |reason: String| ServerError::BadBinary {
        path: path.to_owned(),
        reason,
    };
    let asked = Command::new(path)
        .arg("--version")
        .output()
        .map_err(|error| bad(error.to_string()))?;
    let said = String::from_utf8_lossy(&asked.stdout);
    let word = said.split_whitespace().last().unwrap_or_default();
    let version =
        parse_version(word).ok_or_else(|| bad("it does not say its version".to_owned()))?;
    let binary = Binary {
        path: path.to_owned(),
        version: word.trim_start_matches('v').to_owned(),
    };
    if version < SERVER_VERSION_MIN {
        return Err(ServerError::OldBinary {
            path: binary.path,
            version: binary.version,
        });
    }
    Ok(binary)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn fake(folder: &Path, version: &str) -> PathBuf {
        fs::create_dir_all(folder).unwrap();
        let path = folder.join("nats-server");
        fs::write(
            &path,
            format!("#!/bin/sh\necho 'nats-server: v{version}'\n"),
        )
        .unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn the_named_one_wins_and_an_old_one_on_path_hides_nothing() {
        let root = tempfile::tempdir().unwrap();
        let old = fake(&root.path().join("bin"), "2.9.10");
        let tools = fake(&root.path().join("project/.tools/bin"), "2.15.1");
        let named = fake(&root.path().join("named"), "2.14.5");
        let path = old.parent().unwrap().as_os_str();
        let exe = root.path().join("project/target/release/wasmjob");
        let found = |named: Option<&OsStr>, around: &[PathBuf]| find_in(named, Some(path), around);
        assert_eq!(found(Some(named.as_os_str()), &[]).unwrap().path, named);
        let binary = found(None, std::slice::from_ref(&exe)).unwrap();
        assert_eq!((binary.path, binary.version.as_str()), (tools, "2.15.1"));
        assert!(matches!(
            found(None, &[]),
            Err(ServerError::OldBinary { .. })
        ));
        assert!(matches!(
            found(Some(old.as_os_str()), &[exe]),
            Err(ServerError::OldBinary { .. })
        ));
        let nothing = find_in(None, None, &[]).unwrap_err();
        assert!(nothing.hint().contains("2.14.5"), "{}", nothing.hint());
    }
}
