//! Exit codes, and errors the way a person reads them: what failed, why, and a hint.

use std::{
    fmt::{self, Display},
    io::Write,
    process::ExitCode,
};

use clap::error::ErrorKind;

use crate::{
    artifacts::ArtifactError,
    config::ConfigError,
    connect::ConnectError,
    grants::{GrantError, SecretError},
    limit_values::LimitConfigError,
    node::NodeError,
    queue::QueueError,
    queue::SetupError,
    server::ServerError,
    wire::SpecError,
};

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// 0: done.
    Done,
    /// 1: the job did not succeed.
    Failed,
    /// 2: what was asked for makes no sense.
    Usage,
    /// 3: the platform could not do it.
    Platform,
}

impl Exit {
    /// The worse of two.
    #[must_use]
    pub fn worse(self, other: Exit) -> Exit {
        self.max(other)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Platform => 3,
        })
    }
}

/// An error for a person.
#[derive(Debug)]
pub struct CliError {
    message: String,
    hint: Option<String>,
    exit: Exit,
}

impl CliError {
    /// What was asked for makes no sense.
    pub fn usage(message: impl Display) -> Self {
        CliError { message: message.to_string(), hint: None, exit: Exit::Usage }
    }

    /// The platform could not do it.
    pub fn platform(message: impl Display) -> Self {
        CliError { message: message.to_string(), hint: None, exit: Exit::Platform }
    }

    /// Nobody is listening any more: nothing to tell, and nothing went wrong.
    pub fn quiet() -> Self {
        CliError { message: String::new(), hint: None, exit: Exit::Done }
    }

    /// With what to try.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Tells it on stderr.
    pub fn report(&self, json: bool) -> Exit {
        if self.message.is_empty() {
            return self.exit;
        }
        let mut stderr = std::io::stderr().lock();
        // There is nobody to tell if stderr is gone.
        let _ = match (json, &self.hint) {
            (true, hint) => writeln!(stderr, "{}", serde_json::json!({ "error": self.message, "hint": hint })),
            (false, Some(hint)) => writeln!(stderr, "error: {}\nhint: {hint}", self.message),
            (false, None) => writeln!(stderr, "error: {}", self.message),
        };
        self.exit
    }
}

/// What is wrong with the arguments of the command line, without how a person is shown it.
pub(super) fn of_usage(error: &clap::Error) -> CliError {
    if matches!(error.kind(), ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand) {
        return CliError::usage("a subcommand is missing").hint("--help lists them");
    }
    let text = error.render().to_string();
    let mut paragraphs = text.split("\n\n").map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
    let message = paragraphs.next().unwrap_or_default();
    let told = CliError::usage(message.strip_prefix("error: ").unwrap_or(&message));
    // How it is used, or the word that was meant; the last one says that there is --help.
    match paragraphs.next() {
        Some(hint) => told.hint(hint),
        None => told,
    }
}

impl Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<GrantError> for CliError {
    fn from(error: GrantError) -> Self {
        let hint = match &error {
            GrantError::Secret(SecretError::Missing { name }) => format!("`wasmjob secret set {name}` keeps one here"),
            _ => "the operator's settings bound what jobs may be granted: `wasmjob config`".into(),
        };
        CliError::usage(error).hint(hint)
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        CliError::usage(&error).hint(error.hint())
    }
}

impl From<ConnectError> for CliError {
    fn from(error: ConnectError) -> Self {
        let told = match &error {
            // What was given is no address and no file for it.
            ConnectError::Url { .. } | ConnectError::File { .. } => CliError::usage(&error),
            _ => CliError::platform(&error),
        };
        told.hint(error.hint())
    }
}

impl From<ServerError> for CliError {
    fn from(error: ServerError) -> Self {
        let told = match &error {
            ServerError::Locked { .. } | ServerError::Revoke { .. } | ServerError::NodeName { .. } => {
                CliError::usage(&error)
            }
            _ => CliError::platform(&error),
        };
        told.hint(error.hint())
    }
}

impl From<SpecError> for CliError {
    fn from(error: SpecError) -> Self {
        match error {
            SpecError::LimitTooHigh { impossible: false, .. } => {
                CliError::usage(error).hint("an operator can raise the maximum under [limits.max] in the configuration")
            }
            SpecError::Field { field, ref reason } => match flag(field) {
                Some(flag) => CliError::usage(format!("{flag}: {reason}")),
                None => CliError::usage(error),
            },
            _ => CliError::usage(error),
        }
    }
}

/// The flag that a field of a job spec comes from.
fn flag(field: &str) -> Option<&'static str> {
    let flags = [
        ("args", "--arg"),
        ("env", "--env"),
        ("secrets", "--secret"),
        ("grants", "--grant"),
        ("queue", "--queue"),
        ("labels", "--label"),
        ("at", "--at or --in"),
        ("expires_ms", "--expires"),
        ("result_ttl_ms", "--keep"),
        ("soft_ms", "--soft"),
        ("retry", "--retries and what goes with it"),
        ("dedupe_key", "--dedupe"),
        ("concurrency", "--concurrency"),
    ];
    flags.iter().find(|(name, _)| *name == field).map(|(_, flag)| *flag)
}

impl From<LimitConfigError> for CliError {
    fn from(error: LimitConfigError) -> Self {
        CliError::usage(error)
    }
}

impl From<QueueError> for CliError {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::UnknownQueue { .. } => CliError::usage(error)
                .hint("`wasmjob status` lists the queues; a queue begins with a node that works on it"),
            QueueError::Full { .. } => CliError::platform(error)
                .hint("make room on the disk of the NATS server, or delete artifacts with `wasmjob artifact rm`"),
            QueueError::KeyTaken { .. } => CliError::usage(error)
                .hint("give this job another key, or wait until the result of the other one has expired"),
            QueueError::TooLarge { .. } => {
                CliError::usage(error).hint("pass large values as input: inputs become artifacts by themselves")
            }
            QueueError::Unavailable { ref reason, .. } if reason.contains("stream not found") => {
                CliError::platform(error)
                    .hint("no `wasmjob up` or `wasmjob node` ever used this NATS server; start one")
            }
            _ => CliError::platform(error),
        }
    }
}

impl From<SetupError> for CliError {
    fn from(error: SetupError) -> Self {
        let hint = match error.is_full() {
            true => "make room on the disk of the NATS server",
            false => "the credentials may not be allowed to create it; start `wasmjob up` or ask the operator",
        };
        CliError::platform(error).hint(hint)
    }
}

impl From<ArtifactError> for CliError {
    fn from(error: ArtifactError) -> Self {
        match error {
            ArtifactError::NotFound { .. } | ArtifactError::Url { .. } | ArtifactError::TooLarge { .. } => {
                CliError::usage(error)
            }
            ArtifactError::Full { .. } => {
                CliError::platform(error).hint("make room there, or use another store with --artifacts")
            }
            _ => CliError::platform(error),
        }
    }
}

impl From<NodeError> for CliError {
    fn from(error: NodeError) -> Self {
        match error {
            NodeError::Connect(error) => error.into(),
            NodeError::Setup(error) => error.into(),
            NodeError::Artifacts(error) => error.into(),
            NodeError::Limits(error) => error.into(),
            NodeError::Queue(error) => error.into(),
            NodeError::Http(error) => {
                let hint = error.hint();
                CliError::platform(error).hint(hint)
            }
            NodeError::NameTaken { .. } => CliError::usage(error).hint("give this one another name with --name"),
            NodeError::Sandbox(_) | NodeError::Program(_) | NodeError::Folder { .. } => CliError::platform(error),
        }
    }
}
