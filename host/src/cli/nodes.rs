//! `wasmjob nodes`: which nodes there are, and how others join.

use std::path::PathBuf;

use clap::Subcommand;

use super::{CliError, Exit, Global, common::Cluster, render};
use crate::{
    connect::EndpointFile,
    nodes,
    server::{self, DataFolder},
};

/// Subcommands of `nodes`.
#[derive(Subcommand)]
pub(crate) enum NodesCommand {
    /// List the nodes that are alive
    Ls,
    /// Show everything about one node
    Inspect {
        /// The node's name
        name: String,
    },
    /// Make the one file that another machine needs to join (`wasmjob node --join FILE`)
    Invite {
        /// Name of the new node
        name: String,
        /// Where to write the file [default: NAME.join]
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Take back what an invitation allows
    Revoke {
        /// Name of the node
        name: String,
    },
}

/// Does what the subcommand says.
pub(crate) async fn nodes(global: &Global, command: NodesCommand) -> Result<Exit, CliError> {
    match command {
        NodesCommand::Ls => list(global).await,
        NodesCommand::Inspect { name } => inspect(global, &name).await,
        NodesCommand::Invite { name, output } => invite(global, &name, output).await,
        NodesCommand::Revoke { name } => revoke(global, &name).await,
    }
}

async fn list(global: &Global) -> Result<Exit, CliError> {
    let cluster = Cluster::connect(global).await?;
    let nodes = nodes::list_now(&cluster.broker).await?;
    if global.json {
        render::json(&nodes)?;
        return Ok(Exit::Done);
    }
    let rows = nodes.iter().map(|node| {
        vec![
            node.name.clone(),
            node.state.clone(),
            format!("{}/{}", node.running, node.slots),
            format!("{}/{}", render::bytes(node.memory_promised_bytes), render::bytes(node.memory_bytes)),
            node.queues.join(","),
            node.platform.clone(),
            node.version.clone(),
            node.pid.to_string(),
            render::age(node.seen.as_deref().or(node.started.as_deref())),
        ]
    });
    let headings = ["node", "state", "slots", "memory", "queues", "platform", "version", "pid", "seen"];
    render::table(&headings, &rows.collect::<Vec<_>>())?;
    Ok(Exit::Done)
}

async fn inspect(global: &Global, name: &str) -> Result<Exit, CliError> {
    let cluster = Cluster::connect(global).await?;
    let node = match nodes::ask(&cluster.broker, name).await {
        Some(node) => Some(node),
        None => nodes::get(&cluster.broker, name).await?,
    };
    match node {
        Some(node) => render::json(&node)?,
        None => {
            return Err(CliError::usage(format!("there is no node `{name}`"))
                .hint("`wasmjob nodes ls` lists those that are alive"));
        }
    }
    Ok(Exit::Done)
}

async fn invite(global: &Global, name: &str, output: Option<PathBuf>) -> Result<Exit, CliError> {
    let config = global.load(Vec::new())?;
    let path = output.unwrap_or_else(|| PathBuf::from(format!("{name}.join")));
    if path.exists() {
        return Err(
            CliError::usage(format!("{} exists already", path.display())).hint("choose another file with --output")
        );
    }
    let file: EndpointFile = server::invite(&DataFolder::open(&config.data)?, name).await?;
    file.write(&path)?;
    match global.json {
        true => render::json(&serde_json::json!({ "name": name, "file": path, "url": file.url }))?,
        false => {
            render::line(&path.display().to_string())?;
            render::talk(format!(
                "This file lets a machine join as `{name}` at {}; whoever has it can. Copy it there and run:\n  wasmjob node --join {}",
                file.url,
                path.file_name().unwrap_or(path.as_os_str()).to_string_lossy()
            ));
        }
    }
    Ok(Exit::Done)
}

async fn revoke(global: &Global, name: &str) -> Result<Exit, CliError> {
    let config = global.load(Vec::new())?;
    server::revoke(&DataFolder::open(&config.data)?, name)?;
    // Its entry would say that it lives for a while. Without a running `up` there is none.
    if let Ok(cluster) = Cluster::connect(global).await {
        nodes::remove(&cluster.broker, name).await?;
    }
    render::talk(format!("node `{name}` cannot connect any more"));
    Ok(Exit::Done)
}
