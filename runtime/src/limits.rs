//! Every ceiling of an attempt: its name, unit, default, highest value and reason.
//!
//! A job chooses some of them (`Limits`, by name) below what the operator allows; some an operator sets
//! for a whole node (`NodeLimits`); the others are the same for everybody and stand here as constants. `Limit` is what a report says when one of
//! them ended an attempt.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// The ceiling that ended an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// Guest instructions, in fuel.
    Fuel,
    /// Bytes of linear memory and tables together.
    Memory,
    /// Time from the start of the attempt.
    Wall,
    /// Depth of the guest's call stack.
    Stack,
    /// Handles the guest holds on host objects.
    Handles,
    /// Bytes of output.
    Output,
    /// Bytes of input.
    Input,
    /// Elements in tables.
    Table,
    /// Core instances, memories and tables in one component.
    Instances,
    /// Size of a component, or what compiling it took.
    Compile,
    /// Bytes in one host call.
    Call,
    /// Bytes or files in the scratch folder.
    Scratch,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Limit::Fuel => "fuel",
            Limit::Memory => "memory",
            Limit::Wall => "wall",
            Limit::Stack => "stack",
            Limit::Handles => "handles",
            Limit::Output => "output",
            Limit::Input => "input",
            Limit::Table => "table",
            Limit::Instances => "instances",
            Limit::Compile => "compile",
            Limit::Call => "call",
            Limit::Scratch => "scratch",
        };
        f.write_str(name)
    }
}

/// Core instances in one attempt. A Python component has about 25; each costs the host a slot.
pub const INSTANCES_MAX: usize = 128;
/// Linear memories in one attempt. A component from several modules has one for each.
pub const MEMORIES_MAX: usize = 16;
/// Tables in one attempt.
pub const TABLES_MAX: usize = 64;
/// Elements in one table, 8 bytes each. Large interpreters need about 20,000.
pub const TABLE_ELEMENTS_MAX: usize = 200_000;
/// Elements that the pool reserves for one table. More than a table may have, so that a growth
/// beyond `TABLE_ELEMENTS_MAX` reaches the limiter, which can tell it from the module's own maximum.
pub const TABLE_ELEMENTS_RESERVED: usize = TABLE_ELEMENTS_MAX + 1;
/// Handles on host objects (streams, pollables, blobs) that a guest can hold at once.
pub const HANDLES_MAX: usize = 1_024;
/// Most handles on host objects that an operator can allow.
pub const HANDLES_CEILING: u64 = 65_536;
/// Handles of all kinds, those of components on resources of each other included. Each costs the
/// host 24 bytes.
pub const COMPONENT_HANDLES_MAX: usize = 4_096;
/// Bytes in memory for each group of an open blob: one node of its tree.
pub const TREE_NODE_BYTES: u64 = 32;
/// Bytes that the host keeps in memory for an artifact that is being written, whatever its size.
pub const WRITER_BYTES: u64 = 512 * 1024;
/// Fuel of a host call, besides its bytes: about what one takes, in instructions of a guest.
pub const CALL_FUEL: u64 = 1_000;
/// Fuel of each byte that the host moves, makes or hashes for a guest.
pub const BYTE_FUEL: u64 = 1;
/// Sockets of one attempt: each is a file of the host's, of which a process has a thousand or more.
pub const SOCKETS_MAX: usize = 64;
/// Bytes that the system may keep for a socket in each direction, before it doubles them for what it has
/// to keep besides.
pub const SOCKET_BUFFER_BYTES: u64 = 256 * 1024;
/// Bytes of an attempt's memory that a socket takes: its buffers in the system, doubled, and a chunk
/// each way in the host.
pub const SOCKET_BYTES: u64 = 4 * SOCKET_BUFFER_BYTES + 128 * 1024;
/// HTTP requests of one attempt at the same time, each over a connection of its own.
pub const HTTP_REQUESTS_MAX: usize = 16;
/// Bytes that an HTTP connection keeps of what it sends or receives.
pub const HTTP_BUFFER_BYTES: usize = 64 * 1024;
/// Bytes of an attempt's memory that a running HTTP request takes: a socket, and buffers for HTTP and TLS
/// each way.
pub const HTTP_REQUEST_BYTES: u64 = SOCKET_BYTES + 4 * HTTP_BUFFER_BYTES as u64;
/// Bytes of the header of a request or response. Servers allow 8 to 16 KiB.
pub const HTTP_FIELDS_BYTES_MAX: usize = 16 * 1024;
/// Bytes of an attempt's memory that a handle on HTTP fields takes. An empty field of one letter is
/// counted as 73 bytes by WASI and takes about 230.
pub const HTTP_FIELDS_BYTES: u64 = 4 * HTTP_FIELDS_BYTES_MAX as u64;
/// Fuel of resolving a path, besides the call: several calls of the system.
pub const PATH_FUEL: u64 = 5_000;
/// Fuel of one entry of a folder that is listed or measured.
pub const ENTRY_FUEL: u64 = 1_500;
/// Fuel of each thing that a call waits for.
pub const POLL_FUEL: u64 = 500;
/// Fuel of having a file on the disk for certain: it is mostly waiting, for everybody on that disk.
pub const SYNC_FUEL: u64 = 1_000_000;
/// Bytes of a path, as on most systems.
pub const PATH_BYTES_MAX: usize = 4 * 1024;
/// Files, folders, listings and streams of files that a guest can have open at once: below its
/// handles, because the node has a limit of its own on open files that all attempts share.
pub const FILES_MAX: usize = 256;
/// Files, folders and links in a scratch folder. The disk has room for so many only, and somebody
/// has to remove them afterwards.
pub const SCRATCH_ENTRIES_MAX: u64 = 4_096;
/// Bytes in memory of a folder that is being listed.
pub const LISTING_BYTES: u64 = 40 * 1024;
/// Most bytes of a component that an operator can allow. A Python component has 18 MB.
pub const COMPONENT_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// Components inside components, which composing programs makes a few of. Compiling them takes
/// memory with the square of the depth: 50,000, in a file of 600 kB, took 24 GB. Also types inside
/// types of components and instances: validating them takes stack, and 1,000 took all there is.
pub const COMPONENT_DEPTH_MAX: usize = 64;
/// Threads of one compile. Each takes memory, and the functions of a component are of such different
/// size that more find little to do.
pub const COMPILE_THREADS_MAX: usize = 8;
/// Stack of the thread that validates and compiles.
pub const COMPILE_STACK_BYTES_MAX: u64 = 8 << 20;
/// Components that are compiled at the same time, if there are as many cores: one that takes all the
/// time it is given should not keep all others waiting.
pub const COMPILES_MAX: usize = 2;
/// How long it is remembered that a component could not be compiled: a queue full of jobs of one that
/// exhausts the compiler costs one compile in this time.
pub const COMPILE_REFUSED_FOR: Duration = Duration::from_secs(600);
/// Components of which that is remembered.
pub const COMPILE_REFUSALS_MAX: usize = 1_024;
/// Bytes of arguments and environment together.
pub const ARGS_BYTES_MAX: usize = 128 * 1024;
/// Bytes of one line of the log; longer lines are cut.
pub const LOG_LINE_BYTES_MAX: usize = 8 * 1024;
/// Bytes of the message in a report; longer ones are cut. Guests have a say in what is in it.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024;
/// Artifacts that one attempt can be writing at the same time.
pub const WRITERS_MAX: usize = 16;
/// Blobs that one attempt can hold at the same time, its input included.
pub const BLOBS_MAX: usize = 64;
/// Fuel after which a guest lets its thread look at deadlines and cancels: well below 1 ms. Host calls
/// look at them themselves.
pub const YIELD_FUEL: u64 = 250_000;

/// What a job may use. Every field has a default and a name for `--limit NAME=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Guest instructions, in fuel (about one for each WebAssembly instruction).
    pub fuel: u64,
    /// Bytes of linear memory, tables and what the host holds for the guest.
    pub memory: u64,
    /// Milliseconds from start to end of an attempt.
    #[serde(rename = "wall")]
    pub wall_ms: u64,
    /// Bytes of output, standard output or artifacts written.
    pub output: u64,
    /// Bytes of input.
    pub input: u64,
    /// Bytes of standard error and log lines that are kept.
    pub log: u64,
    /// Elements of each table.
    pub table: u64,
    /// Handles on host objects: streams, timers, files, sockets, blobs.
    pub handles: u64,
    /// Core instances.
    pub instances: u64,
    /// Bytes in one host call: its arguments, what a job returns, or random bytes that it asks for.
    pub call: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            fuel: 10_000_000_000_000,
            memory: 512 << 20,
            wall_ms: 7_200_000,
            output: 256 << 20,
            input: 256 << 20,
            log: 1 << 20,
            table: TABLE_ELEMENTS_MAX as u64,
            handles: HANDLES_MAX as u64,
            instances: INSTANCES_MAX as u64,
            call: 16 << 20,
        }
    }
}

/// Unit of a limit, which says how its value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A plain number; `1e9` is allowed.
    Number,
    /// Bytes: `64MiB`, `1GiB`, `1000`.
    Bytes,
    /// Milliseconds: `5s`, `250ms`, `2h`.
    Millis,
}

/// One limit a job can choose, for tables and help.
pub struct LimitInfo {
    /// The name in `--limit NAME=VALUE` and in `limits` of a job.
    pub name: &'static str,
    /// How its value is written.
    pub unit: Unit,
    /// The highest value an operator can allow: the sandbox cannot enforce more.
    pub ceiling: u64,
    /// What it caps.
    pub about: &'static str,
}

impl LimitInfo {
    /// A value with its unit, the largest that divides it.
    pub fn show(&self, value: u64) -> String {
        let units: &[(u64, &str)] = match self.unit {
            Unit::Number => &[],
            Unit::Bytes => &[(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B")],
            Unit::Millis => &[(3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")],
        };
        match units.iter().find(|(size, _)| value >= *size && value.is_multiple_of(*size)) {
            Some((size, unit)) => format!("{}{unit}", value / size),
            None => value.to_string(),
        }
    }
}

/// The limits a job can choose, in the order they are shown.
pub const CHOOSABLE: [LimitInfo; 10] = [
    LimitInfo { name: "fuel", unit: Unit::Number, ceiling: i64::MAX as u64, about: "instructions and host calls" },
    LimitInfo { name: "memory", unit: Unit::Bytes, ceiling: 4 << 30, about: "all memory held by and for the guest" },
    LimitInfo { name: "wall", unit: Unit::Millis, ceiling: 30 * 86_400_000, about: "time of one attempt" },
    LimitInfo { name: "output", unit: Unit::Bytes, ceiling: 16 << 30, about: "output, artifacts written included" },
    LimitInfo { name: "input", unit: Unit::Bytes, ceiling: 1 << 40, about: "input" },
    LimitInfo { name: "log", unit: Unit::Bytes, ceiling: 64 << 20, about: "standard error and log kept" },
    LimitInfo { name: "table", unit: Unit::Number, ceiling: TABLE_ELEMENTS_MAX as u64, about: "elements of a table" },
    LimitInfo { name: "handles", unit: Unit::Number, ceiling: HANDLES_CEILING, about: "handles on host objects" },
    LimitInfo { name: "instances", unit: Unit::Number, ceiling: INSTANCES_MAX as u64, about: "core instances" },
    // The host holds them beside the budget for a moment.
    LimitInfo { name: "call", unit: Unit::Bytes, ceiling: 128 << 20, about: "bytes in one host call" },
];

/// Limits that are the same for all jobs of a node: what a component is compiled to is shared by them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeLimits {
    /// Bytes of a guest's stack.
    pub stack: u64,
    /// Bytes of a component.
    pub component: u64,
    /// Bytes of memory for one compile.
    pub compile_memory: u64,
    /// Milliseconds of processor time for one compile.
    pub compile_time_ms: u64,
}

impl Default for NodeLimits {
    fn default() -> Self {
        NodeLimits {
            stack: 512 << 10,
            component: COMPONENT_BYTES_MAX,
            // The 18 MB of a Python component take 370 MB on two threads,
            compile_memory: 2 << 30,
            // and 12 s.
            compile_time_ms: 60_000,
        }
    }
}

/// The limits of a node, in the order they are shown. Jobs cannot choose them.
pub const OF_NODE: [LimitInfo; 4] = [
    // Every slot has address space for two of them.
    LimitInfo { name: "stack", unit: Unit::Bytes, ceiling: 16 << 20, about: "stack of a guest" },
    LimitInfo { name: "component", unit: Unit::Bytes, ceiling: COMPONENT_BYTES_MAX, about: "size of a component" },
    LimitInfo { name: "compile_memory", unit: Unit::Bytes, ceiling: 64 << 30, about: "memory of one compile" },
    LimitInfo { name: "compile_time", unit: Unit::Millis, ceiling: 3_600_000, about: "processor time of one compile" },
];

impl NodeLimits {
    /// The value of the limit called `name`.
    pub fn get(&self, name: &str) -> Option<u64> {
        let mut limits = self.clone();
        limits.field(name).map(|field| *field)
    }

    /// Sets the limit called `name`; says whether there is one.
    pub fn set(&mut self, name: &str, value: u64) -> bool {
        self.field(name).map(|field| *field = value).is_some()
    }

    fn field(&mut self, name: &str) -> Option<&mut u64> {
        Some(match name {
            "stack" => &mut self.stack,
            "component" => &mut self.component,
            "compile_memory" => &mut self.compile_memory,
            "compile_time" => &mut self.compile_time_ms,
            _ => return None,
        })
    }
}

/// Says which limits a job can choose, because it cannot choose `name`.
pub fn not_choosable(name: &str) -> String {
    let names = CHOOSABLE.each_ref().map(|info| info.name).join(", ");
    match OF_NODE.iter().any(|info| info.name == name) {
        true => {
            format!("`{name}` is the same for all jobs of a node (limits.max.{name} there); the limits are {names}")
        }
        false => format!("there is no limit `{name}`; the limits are {names}"),
    }
}

impl Limits {
    /// The most that any operator can allow.
    pub fn ceilings() -> Self {
        let mut limits = Self::maximum_default();
        for info in CHOOSABLE {
            limits.set(info.name, info.ceiling);
        }
        limits
    }

    /// The most an operator allows unless configured otherwise.
    pub fn maximum_default() -> Self {
        Limits {
            fuel: 1_000_000_000_000_000,
            memory: 4 << 30,
            wall_ms: 86_400_000,
            output: 4 << 30,
            input: 16 << 30,
            log: 16 << 20,
            table: TABLE_ELEMENTS_MAX as u64,
            handles: HANDLES_MAX as u64,
            instances: INSTANCES_MAX as u64,
            call: 16 << 20,
        }
    }

    /// The value of the limit called `name`.
    pub fn get(&self, name: &str) -> Option<u64> {
        Some(match name {
            "fuel" => self.fuel,
            "memory" => self.memory,
            "wall" => self.wall_ms,
            "output" => self.output,
            "input" => self.input,
            "log" => self.log,
            "table" => self.table,
            "handles" => self.handles,
            "instances" => self.instances,
            "call" => self.call,
            _ => return None,
        })
    }

    /// The value of the limit called `name` with its unit.
    pub fn show(&self, name: &str) -> String {
        let info = CHOOSABLE.iter().find(|info| info.name == name);
        info.zip(self.get(name)).map_or_else(String::new, |(info, value)| info.show(value))
    }

    /// Sets the limit called `name`; says whether there is one.
    pub fn set(&mut self, name: &str, value: u64) -> bool {
        let field = match name {
            "fuel" => &mut self.fuel,
            "memory" => &mut self.memory,
            "wall" => &mut self.wall_ms,
            "output" => &mut self.output,
            "input" => &mut self.input,
            "log" => &mut self.log,
            "table" => &mut self.table,
            "handles" => &mut self.handles,
            "instances" => &mut self.instances,
            "call" => &mut self.call,
            _ => return false,
        };
        *field = value;
        true
    }

    /// The first limit that is above `maximum`: its name, what was asked and what is allowed.
    pub fn first_above(&self, maximum: &Limits) -> Option<(&'static LimitInfo, u64, u64)> {
        CHOOSABLE.iter().find_map(|info| {
            let (asked, allowed) = (self.get(info.name)?, maximum.get(info.name)?.min(info.ceiling));
            (asked > allowed).then_some((info, asked, allowed))
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_choosable_limit_can_be_read_set_and_exceeded() {
        for info in &CHOOSABLE {
            let mut limits = Limits::default();
            let maximum = Limits::maximum_default();
            assert!(limits.first_above(&maximum).is_none());
            assert!(limits.set(info.name, u64::MAX), "{}", info.name);
            assert_eq!(limits.get(info.name), Some(u64::MAX));
            assert_eq!(limits.first_above(&maximum).unwrap().0.name, info.name);
        }
        assert!(!Limits::default().set("stack", 1));
    }

    #[test]
    fn values_are_shown_with_their_units() {
        let limits = Limits { fuel: 5_000, memory: 512 << 20, wall_ms: 1_500, log: 1_000, ..Limits::default() };
        let shown = ["fuel", "memory", "wall", "log", "stack"].map(|name| limits.show(name));
        assert_eq!(shown, ["5000", "512MiB", "1500ms", "1000B", ""]);
    }

    #[test]
    fn the_json_has_exactly_the_names_of_the_command_line() {
        let value = serde_json::to_value(Limits::default()).unwrap();
        let mut names: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
        names.sort();
        let mut choosable: Vec<_> = CHOOSABLE.iter().map(|info| info.name.to_owned()).collect();
        choosable.sort();
        assert_eq!(names, choosable);
    }
}
