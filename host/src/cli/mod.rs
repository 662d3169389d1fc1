//! The command line: one file for each subcommand, and what they share.
//!
//! Data goes to stdout and nothing else does; talk goes to stderr.

mod again;
mod artifact;
mod bench;
mod cancel;
mod common;
mod config;
mod exit;
mod get;
mod here;
mod inspect;
mod key;
mod local_artifacts;
mod logs;
mod node;
mod nodes;
mod placement;
mod ps;
mod push;
mod queue;
mod render;
mod replay;
mod run;
mod schedule;
mod secret;
mod sign;
mod status;
mod submit;
mod up;
mod wait;
mod waits;

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Parser, Subcommand};

pub use exit::{CliError, Exit};

use crate::config::{Config, FlagValue, Layers};

/// Runs WebAssembly jobs in a sandbox: here, or on a cluster of machines over NATS.
#[derive(Parser)]
#[command(name = "wasmjob", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "\
Exit codes: 0 done, 1 the job did not succeed, 2 wrong usage, 3 the platform failed, 130 waiting was interrupted.
Start with `wasmjob up` in one terminal and `wasmjob submit --wait JOB.wasm` in another.")]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags that every command has.
#[derive(Args, Clone)]
pub(crate) struct Global {
    /// Print one JSON object (lists: one array) instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Configuration file [default: config.toml in the data folder]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Connection and configuration")]
    config: Option<PathBuf>,
    /// NATS server to use [default: the running `wasmjob up`; env: WASMJOB_NATS]
    #[arg(long, global = true, value_name = "URL", help_heading = "Connection and configuration")]
    nats: Option<String>,
    /// Credentials for it: a .creds file or a file with an nkey seed
    #[arg(long, global = true, value_name = "FILE", requires = "nats", help_heading = "Connection and configuration")]
    creds: Option<PathBuf>,
    /// File from `wasmjob nodes invite`, instead of --nats and --creds
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        conflicts_with = "nats",
        help_heading = "Connection and configuration"
    )]
    pub(crate) join: Option<PathBuf>,
    /// Where artifacts are kept: a folder, s3://BUCKET/PREFIX [default: in NATS]
    #[arg(long, global = true, value_name = "URL", help_heading = "Connection and configuration")]
    artifacts: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Run a component here, without a cluster, in the same sandbox
    Run(run::RunArgs),
    /// Start everything on this machine: a NATS server and a node
    Up(up::UpArgs),
    /// Run a node: take jobs from a NATS server
    Node(node::NodeArgs),
    /// Store a component and print its digest
    Push(push::PushArgs),
    /// Show what is in a component, what it needs and who signed it
    Inspect(inspect::InspectArgs),
    /// Make and show keys for signing components
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Sign a component
    Sign(sign::SignArgs),
    /// Submit a job and print its id
    Submit(Box<submit::SubmitArgs>),
    /// Show a job
    Get(get::GetArgs),
    /// Print the output of a job
    Result(get::ResultArgs),
    /// Print the log of a job: its standard error and log lines
    Logs(logs::LogsArgs),
    /// List jobs, the latest first
    Ps(ps::PsArgs),
    /// Cancel jobs, waiting or running
    Cancel(cancel::CancelArgs),
    /// Make a past attempt once more, here, and say whether it does the same
    Replay(replay::ReplayArgs),
    /// Have jobs again that have ended
    Retry(again::RetryArgs),
    /// Look at jobs that were given up on, have them again or forget them
    #[command(subcommand)]
    Dead(again::DeadCommand),
    /// Have jobs recur
    #[command(subcommand)]
    Schedule(schedule::ScheduleCommand),
    /// Look at queues, let them rest or empty them, and say how fast and for what they are
    #[command(subcommand)]
    Queue(queue::QueueCommand),
    /// Show nodes, queues and recent failures at a glance
    Status,
    /// List nodes, and let other machines join
    #[command(subcommand)]
    Nodes(nodes::NodesCommand),
    /// Store and fetch content-addressed bytes
    #[command(subcommand)]
    Artifact(artifact::ArtifactCommand),
    /// Keep values that jobs on this machine may be given: keys and passwords
    #[command(subcommand)]
    Secret(secret::SecretCommand),
    /// Measure how fast jobs go on this machine, with a server and a node of its own
    Bench(bench::BenchArgs),
    /// Print the configuration in force and where each value comes from
    Config,
    /// Become a program that ends when PARENT does
    #[command(hide = true, disable_help_flag = true)]
    ExecChild {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Compile the component on standard input for a node
    #[command(hide = true, disable_help_flag = true)]
    CompileWorker {
        /// What for, as JSON
        request: String,
    },
}

impl Global {
    /// The flags that the node of `up` needs as well.
    pub(crate) fn for_node(&self) -> Vec<String> {
        let config = self.config.iter().flat_map(|path| ["--config".to_owned(), path.display().to_string()]);
        let artifacts = self.artifacts.iter().flat_map(|url| ["--artifacts".to_owned(), url.clone()]);
        config.chain(artifacts).collect()
    }

    /// The configuration with these flags and those of the subcommand over it.
    pub(crate) fn load(&self, mut flags: Vec<FlagValue>) -> Result<Config, CliError> {
        let own = [
            ("--nats", "nats.url", self.nats.clone()),
            ("--creds", "nats.creds", self.creds.as_ref().map(|path| path.display().to_string())),
            ("--artifacts", "artifacts.url", self.artifacts.clone()),
        ];
        flags.extend(
            own.into_iter()
                .filter_map(|(flag, key, value)| Some(FlagValue { flag, key: key.to_owned(), value: value? })),
        );
        Ok(Config::load(&Layers::of_process(self.config.clone(), flags))?)
    }
}

/// Parses the arguments of this process and does what they say.
pub fn main() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return tell_usage(&error),
    };
    if let Command::ExecChild { args } = cli.command {
        return CliError::platform(crate::server::exec_child(args)).report(false);
    }
    if let Command::CompileWorker { request } = cli.command {
        return match wasmjob_runtime::compile_worker(&request) {
            Ok(()) => Exit::Done,
            Err(error) => CliError::platform(format!("the answer was not written: {error}")).report(false),
        };
    }
    crate::artifacts::install_tls_provider();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return CliError::platform(format!("the I/O runtime does not start: {error}")).report(false),
    };
    let json = cli.global.json;
    match runtime.block_on(dispatch(cli)) {
        Ok(exit) => exit,
        Err(error) => error.report(json),
    }
}

/// Tells what is wrong with the arguments, or the help that was asked for.
fn tell_usage(error: &clap::Error) -> Exit {
    let wants_json = std::env::args_os().any(|arg| arg == "--json");
    if error.use_stderr() && wants_json {
        return exit::of_usage(error).report(true);
    }
    let _ = error.print();
    if error.use_stderr() { Exit::Usage } else { Exit::Done }
}

async fn dispatch(cli: Cli) -> Result<Exit, CliError> {
    let global = cli.global;
    match cli.command {
        Command::Run(args) => run::run(&global, args).await,
        Command::Up(args) => up::up(&global, args).await,
        Command::Node(args) => node::node(&global, args).await,
        Command::Push(args) => push::push(&global, args).await,
        Command::Inspect(args) => inspect::inspect(&global, args).await,
        Command::Key(command) => key::key(&global, command),
        Command::Sign(args) => sign::sign(&global, args),
        Command::Submit(args) => submit::submit(&global, *args).await,
        Command::Get(args) => get::get(&global, args).await,
        Command::Result(args) => get::result(&global, args).await,
        Command::Logs(args) => logs::logs(&global, args).await,
        Command::Ps(args) => ps::ps(&global, args).await,
        Command::Cancel(args) => cancel::cancel(&global, args).await,
        Command::Replay(args) => replay::replay(&global, args).await,
        Command::Retry(args) => again::retry(&global, args).await,
        Command::Dead(command) => again::dead(&global, command).await,
        Command::Schedule(command) => schedule::schedule(&global, command).await,
        Command::Queue(command) => queue::queue(&global, command).await,
        Command::Status => status::status(&global).await,
        Command::Nodes(command) => nodes::nodes(&global, command).await,
        Command::Artifact(command) => artifact::artifact(&global, command).await,
        Command::Secret(command) => secret::secret(&global, command),
        Command::Bench(args) => bench::bench(&global, args).await,
        Command::Config => config::config(&global),
        Command::ExecChild { .. } | Command::CompileWorker { .. } => Ok(Exit::Done),
    }
}
