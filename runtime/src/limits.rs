//! Every ceiling of an attempt: its name, unit, default, highest value and reason.
//!
//! A job chooses some of them (`Limits`, by name) below what the operator allows; the others are
//! the same for everybody and stand here as constants. `Limit` is what a report says when one of
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
        };
        f.write_str(name)
    }
}

/// Stack of the guest in bytes. One for all: it is part of the compiled code's environment.
pub const STACK_BYTES_MAX: usize = 512 * 1024;
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
/// Handles of all kinds, those of components on resources of each other included. Each costs the
/// host 24 bytes.
pub const COMPONENT_HANDLES_MAX: usize = 4_096;
/// Bytes a guest can hand to the host in the arguments of one call.
pub const CALL_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Random bytes for one call.
pub const RANDOM_BYTES_MAX: u64 = 64 * 1024;
/// Bytes of one component. A Python component has 18 MB.
pub const COMPONENT_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// Components inside components, which composing programs makes a few of. Compiling them takes
/// memory with the square of the depth: 50,000, in a file of 600 kB, took 24 GB. Also types inside
/// types of components and instances: validating them takes stack, and 1,000 took all there is.
pub const COMPONENT_DEPTH_MAX: usize = 64;
/// Memory that one compile can have. The 18 MB of a Python component take 370 MB on two threads.
pub const COMPILE_MEMORY_BYTES_MAX: u64 = 2 << 30;
/// Processor time that one compile can have, in seconds. A Python component takes 12.
pub const COMPILE_CPU_S_MAX: u64 = 60;
/// Time that one compile can have, half as much again: for a machine that does other things as well.
pub const COMPILE_WALL_MAX: Duration = Duration::from_secs(90);
/// Bytes of machine code of one component: twice the largest component, which is about what
/// compiling makes of it. The node holds them twice for a moment.
pub const COMPILE_CODE_BYTES_MAX: u64 = 2 * COMPONENT_BYTES_MAX;
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
/// Fuel after which a guest lets its thread look at deadlines and cancels: well below 1 ms, unless the
/// guest does little but call the host, which costs it no fuel.
pub const YIELD_FUEL: u64 = 250_000;

/// What a job may use. Every field has a default and a name for `--limit NAME=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Guest instructions, in fuel (about one for each WebAssembly instruction).
    pub fuel: u64,
    /// Bytes of linear memory and tables.
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
        }
    }
}

/// Unit of a limit, which says how its value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A plain number; `1e9` is allowed.
    Fuel,
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
            Unit::Fuel => &[],
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
pub const CHOOSABLE: [LimitInfo; 6] = [
    LimitInfo { name: "fuel", unit: Unit::Fuel, ceiling: i64::MAX as u64, about: "guest instructions" },
    LimitInfo { name: "memory", unit: Unit::Bytes, ceiling: 4 << 30, about: "linear memory and tables together" },
    LimitInfo { name: "wall", unit: Unit::Millis, ceiling: 30 * 86_400_000, about: "time of one attempt" },
    LimitInfo { name: "output", unit: Unit::Bytes, ceiling: 16 << 30, about: "output, artifacts written included" },
    LimitInfo { name: "input", unit: Unit::Bytes, ceiling: 1 << 40, about: "input" },
    LimitInfo { name: "log", unit: Unit::Bytes, ceiling: 64 << 20, about: "standard error and log kept" },
];

impl Limits {
    /// The most an operator allows unless configured otherwise.
    pub fn maximum_default() -> Self {
        Limits {
            fuel: 1_000_000_000_000_000,
            memory: 4 << 30,
            wall_ms: 86_400_000,
            output: 4 << 30,
            input: 16 << 30,
            log: 16 << 20,
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
