//! What a component can import, and what it takes: the one table that admission, refusals and
//! `wasmjob inspect` read.

use crate::capability;

/// What an import needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing: every job has it.
    Nothing,
    /// Nothing; but it shows no files, reaches no address, without this flag.
    EmptyWithout(&'static str),
    /// This flag.
    Flag(&'static str),
    /// Whatever is granted, this host does not have it.
    Unavailable,
}

impl Need {
    /// One word for programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Need::Nothing => "nothing",
            Need::EmptyWithout(_) => "optional",
            Need::Flag(_) => "grant",
            Need::Unavailable => "unavailable",
        }
    }

    /// The flag that gives the import, or gives it its use.
    #[must_use]
    pub fn flag(self) -> Option<&'static str> {
        match self {
            Need::EmptyWithout(flag) | Need::Flag(flag) => Some(flag),
            Need::Nothing | Need::Unavailable => None,
        }
    }
}

/// The version of WASI that is linked, as it begins.
const WASI_VERSION: &str = "0.2.";

/// Interfaces of WASI that are always linked, because the standard library of every language imports
/// them.
const WASI: [&str; 27] = [
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];

/// What it takes to import `import`, an interface with its version.
#[must_use]
pub fn grant_for(import: &str) -> Need {
    let (interface, version) = import.split_once('@').unwrap_or((import, ""));
    let package = interface.split_once('/').map_or(interface, |(package, _)| package);
    match package {
        "wasi:http" if version.starts_with(WASI_VERSION) => Need::Flag("--grant http=HOST"),
        _ if interface.starts_with("wasi:") && !version.starts_with(WASI_VERSION) => Need::Unavailable,
        _ if interface.starts_with("wasi:") && !WASI.contains(&interface) => Need::Unavailable,
        "wasi:filesystem" => Need::EmptyWithout("--grant fs=FOLDER:ro|rw"),
        "wasi:sockets" => Need::EmptyWithout("--grant net=HOST:PORT"),
        _ if interface.starts_with("wasi:") || capability::ALWAYS.contains(&interface) => Need::Nothing,
        _ => match interface {
            "wasmjob:job/jobs" => Need::Flag("--grant jobs=N"),
            "wasmjob:job/names" => Need::Flag("--grant artifacts=PREFIX:ro|rw"),
            "wasmjob:job/secrets" => Need::Flag("--secret NAME"),
            _ => Need::Unavailable,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_import_has_its_need() {
        for (import, need) in [
            ("wasi:cli/stdin@0.2.0", Need::Nothing),
            ("wasi:io/streams@0.2.12", Need::Nothing),
            ("wasmjob:job/log@0.1.0", Need::Nothing),
            ("wasmjob:job/types@0.1.0", Need::Nothing),
            ("wasi:filesystem/types@0.2.6", Need::EmptyWithout("--grant fs=FOLDER:ro|rw")),
            ("wasi:sockets/tcp@0.2.6", Need::EmptyWithout("--grant net=HOST:PORT")),
            ("wasi:http/types@0.2.3", Need::Flag("--grant http=HOST")),
            ("wasmjob:job/jobs@0.1.0", Need::Flag("--grant jobs=N")),
            ("wasmjob:job/names@0.1.0", Need::Flag("--grant artifacts=PREFIX:ro|rw")),
            ("wasmjob:job/secrets@0.1.0", Need::Flag("--secret NAME")),
            ("wasi:cli/stdin@0.3.0", Need::Unavailable),
            ("wasi:cli/stdin", Need::Unavailable),
            ("wasi:http/types@0.3.0", Need::Unavailable),
            ("wasi:nn/graph@0.2.0", Need::Unavailable),
            ("wasmjob:job/other@0.1.0", Need::Unavailable),
            ("acme:thing/api@1.0.0", Need::Unavailable),
            ("run", Need::Unavailable),
            ("", Need::Unavailable),
        ] {
            assert_eq!(grant_for(import), need, "{import}");
        }
    }
}
