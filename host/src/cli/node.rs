//! `wasmjob node`: a node in the foreground.

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{CliError, Exit, Global, render};
use crate::{
    config::{FlagValue, Source},
    connect,
    node::Node,
    telemetry,
};

/// Arguments of `node`.
#[derive(Args)]
#[command(after_help = "\
Ctrl-C drains: no more jobs are taken, running ones may end; a second Ctrl-C hands them back at once.
Example: wasmjob node --join server2.join
Example: wasmjob node --nats tls://nats.example.org:4222 --creds node.creds --slots 4 --memory 8GiB")]
pub(crate) struct NodeArgs {
    #[command(flatten)]
    pub(crate) own: NodeFlags,
    /// For `wasmjob bench`: say of every job that it succeeded, and call no guest
    #[arg(long, hide = true)]
    without_guests: bool,
}

/// What a node is like; `up` has the same flags for its own node.
#[derive(Args, Clone)]
pub(crate) struct NodeFlags {
    /// Name of the node [default: the host's name, or the name it was invited under]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Jobs to run at the same time, in each queue [default: number of processors]
    #[arg(long, value_name = "N")]
    pub(crate) slots: Option<String>,
    /// Memory for all jobs together, such as 8GiB [default: 3/4 of the machine's]
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<String>,
    /// Queues to work on, separated by commas, each with a number of slots if it is another than --slots:
    /// default,gpu:1 [default: default]
    #[arg(long, value_name = "QUEUES")]
    pub(crate) queues: Option<String>,
    /// Loopback address of metrics and health [default: 127.0.0.1:7717, or a free port]
    #[arg(long, value_name = "ADDR")]
    pub(crate) http: Option<String>,
    /// How long running jobs may take to end when the node drains [default: 30s]
    #[arg(long, value_name = "TIME")]
    pub(crate) drain: Option<String>,
}

impl NodeFlags {
    /// The flags that were given, for the configuration.
    pub(crate) fn values(&self) -> Vec<FlagValue> {
        self.given().map(|(flag, key, value)| FlagValue { flag, key: key.to_owned(), value: value.clone() }).collect()
    }

    /// The flags that were given, for another process.
    pub(crate) fn arguments(&self) -> Vec<String> {
        self.given().flat_map(|(flag, _, value)| [flag.to_owned(), value.clone()]).collect()
    }

    fn given(&self) -> impl Iterator<Item = (&'static str, &'static str, &String)> {
        [
            ("--name", "node.name", &self.name),
            ("--slots", "node.slots", &self.slots),
            ("--memory", "node.memory", &self.memory),
            ("--queues", "node.queues", &self.queues),
            ("--http", "node.http", &self.http),
            ("--drain", "node.drain", &self.drain),
        ]
        .into_iter()
        .filter_map(|(flag, key, value)| Some((flag, key, value.as_ref()?)))
    }
}

/// Runs a node until a signal ends it.
pub(crate) async fn node(global: &Global, args: NodeArgs) -> Result<Exit, CliError> {
    let mut config = global.load(args.own.values())?;
    let endpoint = connect::find(&config, global.join.as_deref())?;
    // What an invited node may write is bound to the name it was invited under.
    if let Some(name) = endpoint.name.as_ref().filter(|_| !matches!(config.source("node.name"), Source::Flag(_))) {
        config.node.name.clone_from(name);
    }
    telemetry::init(&config.log).map_err(CliError::usage)?;
    let mut node = Node::prepare(&config, &endpoint).await?;
    if global.join.is_none() {
        node.end_expired();
    }
    if args.without_guests {
        node.skip_guests();
    }
    if !node.server_asks_for_credentials() {
        render::talk(
            "warning: this NATS server asks for no credentials: whoever reaches it can run jobs and read results",
        );
    }
    let (shutdown, hurry) = (CancellationToken::new(), CancellationToken::new());
    tokio::spawn(end_on_signals(shutdown.clone(), hurry.clone()));
    render::talk(format!(
        "node {} is ready: {} slots, queues {}",
        node.info().name,
        node.info().slots,
        node.info().queues.join(", ")
    ));
    node.run(shutdown, hurry).await?;
    Ok(Exit::Done)
}

/// The first signal drains, the second hurries.
pub(crate) async fn end_on_signals(shutdown: CancellationToken, hurry: CancellationToken) {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    for token in [shutdown, hurry] {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        token.cancel();
    }
}
