//! `wasmjob push`: stores a component and prints its digest.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{
    CliError, Exit, Global,
    common::{Cluster, check_is_wasm, read_component, upload},
    render, sign,
};
use crate::names;

/// Arguments of `push`.
#[derive(Args)]
#[command(
    after_help = "Example: wasmjob push --name profile profile.wasm && wasmjob submit --wait profile --input @data.csv"
)]
pub(crate) struct PushArgs {
    /// The component
    file: PathBuf,
    /// A name for it, to submit it by; a name that exists stands for this component from now on
    #[arg(long)]
    name: Option<String>,
}

/// Stores the component.
pub(crate) async fn push(global: &Global, args: PushArgs) -> Result<Exit, CliError> {
    if let Some(name) = args.name.as_deref().filter(|name| !names::is_name(name)) {
        return Err(CliError::usage(format!("`{name}` cannot be a name"))
            .hint("1 to 128 letters, digits, `-`, `_` and `.`, and not like a file name"));
    }
    let blob = read_component(Path::new(&args.file))?;
    check_is_wasm(&args.file)?;
    let cluster = Cluster::connect(global).await?;
    sign::check(&cluster.config, &blob)?;
    upload(&*cluster.artifacts().await?, &blob, &format!("uploading {}", args.file.display())).await?;
    if let Some(name) = &args.name {
        let before = names::resolve(&cluster.broker, name).await?;
        names::set(&cluster.broker, name, blob.digest()).await?;
        if let Some(before) = before.filter(|before| *before != blob.digest()) {
            cluster.warn(format!("{name} stood for {before} before"));
        }
    }
    match global.json {
        true => render::json(&serde_json::json!({ "digest": blob.digest(), "size": blob.size(), "name": args.name }))?,
        false => render::line(&blob.digest().to_string())?,
    }
    Ok(Exit::Done)
}
