//! Defaults that depend on the machine: its name, processors, memory and home folder.

#[cfg(target_os = "linux")]
use std::fs;
use std::path::PathBuf;

/// Memory promised to jobs when nobody says otherwise: three quarters of what the machine (or the
/// control group around us) has, the rest being for the node, the server and the system.
const MEMORY_SHARE: (u64, u64) = (3, 4);

/// Where memory is unknown, a figure every machine that builds this has.
const MEMORY_UNKNOWN_BYTES: u64 = 2 << 30;

/// The data folder: `WASMJOB_DATA`, else `$XDG_DATA_HOME/wasmjob`, else `~/.local/share/wasmjob`.
/// The same on macOS, so that one page of documentation serves both.
#[must_use]
pub fn data_folder(env: &[(String, String)]) -> Option<PathBuf> {
    let of = |name: &str| {
        let found = env
            .iter()
            .find(|(key, value)| key == name && !value.is_empty());
        found.map(|(_, value)| PathBuf::from(value))
    };
    of("WASMJOB_DATA")
        .or_else(|| {
            Some(
                of("XDG_DATA_HOME")
                    .filter(|path| path.is_absolute())?
                    .join("wasmjob"),
            )
        })
        .or_else(|| Some(of("HOME")?.join(".local/share/wasmjob")))
}

/// The host's name as a node name: its first label, lower case, anything else turned into `-`.
#[must_use]
pub fn host_name() -> String {
    let uname = rustix::system::uname();
    as_name(&uname.nodename().to_string_lossy())
}

fn as_name(host: &str) -> String {
    let label = host
        .split('.')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    let clean = label.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    let name = clean.trim_matches('-');
    let end = name.len().min(63);
    if name.is_empty() {
        "node".to_owned()
    } else {
        name[..end].to_owned()
    }
}

/// One slot for each processor we may use.
pub(super) fn slots() -> String {
    std::thread::available_parallelism()
        .map_or(1, std::num::NonZero::get)
        .to_string()
}

pub(super) fn memory() -> String {
    let (share, whole) = MEMORY_SHARE;
    let bytes = machine_memory().unwrap_or(MEMORY_UNKNOWN_BYTES) / whole * share;
    // Whole MiB, so that the value shown is the value in force.
    format!("{}MiB", (bytes >> 20).max(64))
}

#[cfg(target_os = "linux")]
fn machine_memory() -> Option<u64> {
    let info = rustix::system::sysinfo();
    let total = info.totalram.checked_mul(u64::from(info.mem_unit))?;
    Some(control_group_limit().map_or(total, |limit| limit.min(total)))
}

/// What a container or a service unit allows, which the kernel's own total does not show.
#[cfg(target_os = "linux")]
fn control_group_limit() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let limit = |folder: PathBuf| {
        fs::read_to_string(folder.join("memory.max"))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    let root = PathBuf::from("/sys/fs/cgroup");
    let groups = root.join(group);
    let above = groups
        .ancestors()
        .take_while(|folder| folder.starts_with(&root));
    above.filter_map(|folder| limit(folder.to_path_buf())).min()
}

#[cfg(not(target_os = "linux"))]
fn machine_memory() -> Option<u64> {
    let asked = std::process::Command::new("sysctl")
        .args(["-n", "hw.memsize"])
        .output()
        .ok()?;
    String::from_utf8(asked.stdout).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Size;

    #[test]
    fn a_host_name_becomes_a_node_name() {
        for (host, name) in [
            ("Box.example.org", "box"),
            ("my laptop", "my-laptop"),
            ("-x-", "x"),
            ("", "node"),
            ("...", "node"),
        ] {
            assert_eq!(as_name(host), name, "{host}");
        }
    }

    #[test]
    fn the_data_folder_follows_the_environment() {
        let env = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        let cases = [
            (env(&[("WASMJOB_DATA", "/d"), ("HOME", "/h")]), Some("/d")),
            (
                env(&[("XDG_DATA_HOME", "/x"), ("HOME", "/h")]),
                Some("/x/wasmjob"),
            ),
            (
                env(&[("XDG_DATA_HOME", "relative"), ("HOME", "/h")]),
                Some("/h/.local/share/wasmjob"),
            ),
            (env(&[("WASMJOB_DATA", "")]), None),
        ];
        for (env, folder) in cases {
            assert_eq!(data_folder(&env), folder.map(PathBuf::from), "{env:?}");
        }
    }

    #[test]
    fn memory_has_a_usable_default() {
        let Size(bytes) = memory().parse().unwrap();
        assert!(bytes >= 64 << 20);
    }
}
