//! `wasmjob up`: everything on one machine, nothing configured.

use std::{path::PathBuf, process::Command, time::Duration};

use clap::Args;
use time::OffsetDateTime;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    CliError, Exit, Global,
    node::{NodeFlags, end_on_signals},
    render,
};
use crate::{
    artifacts::JetStreamArtifacts,
    config::Config,
    connect, expiries, nodes,
    queue::{Broker, ensure_queue, ensure_shared},
    server::{Listen, Output, Plan, Server, ServerOptions, Supervised},
    telemetry,
};

/// How long the NATS server may take to answer.
const SERVER_PATIENCE: Duration = Duration::from_secs(20);
/// How long the node may take to work.
const NODE_PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether the node works.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What a node needs after its drain time to hand back what still runs.
const HAND_BACK: Duration = Duration::from_secs(10);

/// Arguments of `up`.
#[derive(Args)]
#[command(after_help = "\
Everything is kept in the data folder: WASMJOB_DATA, by default $XDG_DATA_HOME/wasmjob.
Ctrl-C drains: running jobs may end; a second Ctrl-C hands them back at once.
Example: wasmjob up --listen 192.168.1.10, then: wasmjob nodes invite laptop")]
pub(crate) struct UpArgs {
    /// Let other machines connect at this address, with TLS [default: this machine only]
    #[arg(long, value_name = "ADDR[:PORT]")]
    listen: Option<String>,
    /// Address that invitations name, if others reach this machine at another one
    #[arg(long, value_name = "ADDR", requires = "listen")]
    address: Option<String>,
    #[command(flatten)]
    node: NodeFlags,
}

/// Starts the server and the node, waits for a signal, ends them in the other order.
pub(crate) async fn up(global: &Global, args: UpArgs) -> Result<Exit, CliError> {
    let config = global.load(args.node.values())?;
    telemetry::init(&config.log).map_err(CliError::usage)?;
    let listen = args.listen.as_deref().map(str::parse::<Listen>).transpose();
    let listen = listen.map_err(|error| CliError::usage(&error).hint(error.hint()))?;
    let options = ServerOptions {
        listen,
        address: args.address.clone(),
        nodes: vec![config.node.name.clone()],
        sync: config.nats.sync,
        ..ServerOptions::new(config.data.clone())
    };
    let (shutdown, hurry) = (CancellationToken::new(), CancellationToken::new());
    tokio::spawn(end_on_signals(shutdown.clone(), hurry.clone()));
    let server = Server::start(&options)?;
    let ended = run(global, &args, &config, &server, &shutdown, &hurry).await;
    server.stop().await;
    ended.map(|()| Exit::Done)
}

async fn run(
    global: &Global,
    args: &UpArgs,
    config: &Config,
    server: &Server,
    shutdown: &CancellationToken,
    hurry: &CancellationToken,
) -> Result<(), CliError> {
    tokio::select! {
        ready = server.ready(SERVER_PATIENCE) => ready?,
        () = shutdown.cancelled() => return Ok(()),
    }
    let endpoint = server.endpoint();
    let broker = Broker::new(connect::connect(&endpoint).await?);
    tokio::select! {
        prepared = prepare_streams(config, &broker) => prepared?,
        () = shutdown.cancelled() => return Ok(()),
    }
    // The server's clock is this machine's. Nodes may not take messages out of queues.
    let _expiries = AbortOnDropHandle::new(tokio::spawn({
        let broker = broker.clone();
        async move { expiries::keep(&broker, OffsetDateTime::now_utc).await }
    }));
    let join = server.folder().below("credentials")?.join(format!("{}.join", config.node.name));
    server.node_endpoint(&config.node.name)?.write(&join)?;
    let mut node = start_node(global, args, config, join)?;
    tokio::select! {
        ready = node_is_ready(config, &broker, &node) => ready?,
        () = shutdown.cancelled() => {}
    }
    if !shutdown.is_cancelled() {
        render::talk(format!("ready: NATS at {}, data in {}", endpoint.shown_url(), config.data.display()));
    }
    shutdown.cancelled().await;
    render::talk("draining: running jobs may end (Ctrl-C again hands them back at once)");
    let pid = node.pid();
    let stop = node.stop();
    tokio::pin!(stop);
    tokio::select! {
        () = &mut stop => {}
        () = hurry.cancelled() => {
            signal_again(pid);
            stop.await;
        }
    }
    Ok(())
}

/// A node hands back what runs on its second signal, which is another one than the first: two of a kind
/// that come close together are one.
fn signal_again(pid: Option<u32>) {
    let pid = pid.and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended in this moment.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
    }
}

/// Streams are made here, with the operator's credentials: a node may not. And a node that an `up`
/// left that was killed has to be gone.
async fn prepare_streams(config: &Config, broker: &Broker) -> Result<(), CliError> {
    ensure_shared(&broker.jetstream, config.nats.replicas).await?;
    for queue in &config.node.queues {
        ensure_queue(&broker.jetstream, config.nats.replicas, &queue.name, config.queue.lease).await?;
    }
    if config.artifacts.url.is_none() {
        JetStreamArtifacts::open_or_make(broker.jetstream.clone(), config.nats.replicas).await?;
    }
    Ok(crate::node::earlier_one_ended(broker, config).await?)
}

fn start_node(global: &Global, args: &UpArgs, config: &Config, join: PathBuf) -> Result<Supervised, CliError> {
    let program = std::env::current_exe().map_err(CliError::platform)?;
    let arguments = [global.for_node(), args.node.arguments()].concat();
    let data = config.data.clone();
    let command = move || {
        let mut command = Command::new(&program);
        command.arg("node").arg("--join").arg(&join).args(&arguments).env("WASMJOB_DATA", &data);
        // The join file says which server; what led `up` elsewhere must not lead its node there.
        command.env_remove("WASMJOB_NATS");
        command
    };
    let plan = Plan {
        name: "the node".into(),
        command: Box::new(command),
        output: Output::File(config.data.join("logs").join("node.log")),
        grace: config.node.drain + HAND_BACK,
        death_signal: rustix::process::Signal::TERM,
        launcher: ServerOptions::new(config.data.clone()).launcher,
    };
    Supervised::start(plan).map_err(|error| CliError::platform(&error).hint(error.hint()))
}

/// Waits until the node's process has said that it works.
async fn node_is_ready(config: &Config, broker: &Broker, node: &Supervised) -> Result<(), CliError> {
    let ready = async {
        loop {
            let answer = nodes::ask(broker, &config.node.name).await;
            if answer.is_some_and(|answer| Some(answer.pid) == node.pid()) {
                return Ok(());
            }
            if let crate::server::ChildState::Down { starts: 3.., reason, .. } = &*node.state().borrow() {
                return Err(CliError::platform(format!("the node keeps ending: {reason}\n{}", node.last_words())));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let silent = || CliError::platform(format!("the node does not start; it said:\n{}", node.last_words()));
    tokio::time::timeout(NODE_PATIENCE, ready).await.map_err(|_| silent())?
}
