//! `wasmjob artifact`: content-addressed bytes.

use std::{io::Write, path::PathBuf, sync::Arc};

use clap::Subcommand;
use futures_util::{StreamExt, TryStreamExt};
use time::OffsetDateTime;
use wasmjob_runtime::Digest;

use super::{
    CliError, Exit, Global,
    common::{Cluster, read_all, read_file, upload},
    render,
};
use crate::{
    artifacts::{self, ArtifactStore},
    connect::{self, ConnectError},
    wire::timestamp,
};

/// Subcommands of `artifact`.
#[derive(Subcommand)]
pub(crate) enum ArtifactCommand {
    /// Store a file and print its digest
    Put {
        /// The file, or - for standard input
        file: String,
    },
    /// Print an artifact, or write it to a file
    Get {
        /// Its digest
        digest: Digest,
        /// Where to write it, instead of standard output
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// List the artifacts
    Ls,
    /// Remove artifacts
    Rm {
        /// Their digests
        #[arg(required = true)]
        digests: Vec<Digest>,
    },
}

/// Does what the subcommand says.
pub(crate) async fn artifact(global: &Global, command: ArtifactCommand) -> Result<Exit, CliError> {
    match command {
        ArtifactCommand::Put { file } => put(global, &file).await?,
        ArtifactCommand::Get { digest, output } => get(global, &digest, output).await?,
        ArtifactCommand::Ls => list(global).await?,
        ArtifactCommand::Rm { digests } => {
            let store = store(global).await?;
            for digest in &digests {
                store.delete(digest).await?;
            }
        }
    }
    Ok(Exit::Done)
}

/// The store that is configured, else the cluster's, else without a cluster the folder in which `run`
/// keeps large outputs.
pub(crate) async fn store(global: &Global) -> Result<Arc<dyn ArtifactStore>, CliError> {
    let config = global.load(Vec::new())?;
    let local = config.data.join("artifacts");
    if let Some(url) = config.artifacts.url.as_deref() {
        return Ok(artifacts::open(Some(url), None, &local).await?);
    }
    match connect::find(&config, global.join.as_deref()) {
        Err(ConnectError::Nowhere { .. }) if local.is_dir() => Ok(artifacts::open(None, None, &local).await?),
        Err(error) => Err(error.into()),
        Ok(_) => Cluster::connect(global).await?.artifacts().await,
    }
}

async fn put(global: &Global, file: &str) -> Result<(), CliError> {
    let blob = match file {
        "-" => read_all(std::io::stdin().lock(), "standard input", u64::MAX)?,
        path => read_file(path.as_ref(), u64::MAX)?,
    };
    let store = store(global).await?;
    upload(&*store, &blob, &format!("uploading {file}")).await?;
    match global.json {
        true => render::json(&serde_json::json!({ "digest": blob.digest(), "size": blob.size() })),
        false => render::line(&blob.digest().to_string()),
    }
}

/// A file is complete or not there: it is written beside its place and moved.
async fn get(global: &Global, digest: &Digest, output: Option<PathBuf>) -> Result<(), CliError> {
    let store = store(global).await?;
    let mut pieces = store.get(digest, None).await?;
    let Some(path) = output else {
        while let Some(piece) = pieces.next().await {
            render::data(&piece?)?;
        }
        return Ok(());
    };
    let cannot = |error: std::io::Error| CliError::platform(format!("{} cannot be written: {error}", path.display()));
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(".".as_ref());
    let in_folder = |error| CliError::usage(format!("no file can be made in {}: {error}", folder.display()));
    let mut staged = tempfile::NamedTempFile::new_in(folder).map_err(in_folder)?;
    let mut size = 0;
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        size += piece.len();
        staged.write_all(&piece).map_err(cannot)?;
    }
    staged.persist(&path).map_err(|error| cannot(error.error))?;
    match global.json {
        true => render::json(&serde_json::json!({ "digest": digest, "size": size, "file": path })),
        false => Ok(()),
    }
}

async fn list(global: &Global) -> Result<(), CliError> {
    let store = store(global).await?;
    let entries: Vec<_> = store.list().try_collect().await?;
    if global.json {
        let rows: Vec<_> = entries
            .iter()
            .map(|entry| serde_json::json!({ "digest": entry.digest, "size": entry.size_bytes, "stored": timestamp(entry.stored.into()) }))
            .collect();
        return render::json(&rows);
    }
    let rows = entries.iter().map(|entry| {
        let stored = timestamp(OffsetDateTime::from(entry.stored));
        vec![entry.digest.to_string(), render::bytes(entry.size_bytes), render::age(stored.as_deref())]
    });
    render::table(&["digest", "size", "age"], &rows.collect::<Vec<_>>())
}
