//! `wasmjob inspect`: what is in a component, what it needs and who signed it.

use clap::Args;
use futures_util::StreamExt;
use serde_json::Value;
use wasmjob_runtime::{Blob, Digest, Inspection, JobKind, Memory, Need, limits::COMPONENT_BYTES_MAX};

use super::{
    CliError, Exit, Global, artifact,
    common::{Cluster, as_file, read_component},
    render,
};
use crate::{
    artifacts::{ArtifactError, ArtifactStore},
    config::Config,
};

const PAGE_BYTES: u64 = 64 * 1024;

/// Arguments of `inspect`.
#[derive(Args)]
#[command(after_help = "\
Nothing is compiled or run, and a file needs no cluster.
Exit code: 0 it could run, given what NEEDS says; 1 it could not.
Example: wasmjob inspect job.wasm")]
pub(crate) struct InspectArgs {
    /// A file, a digest, or a name given with `push --name`
    component: String,
}

/// Prints what there is to know.
pub(crate) async fn inspect(global: &Global, args: InspectArgs) -> Result<Exit, CliError> {
    let config = global.load(Vec::new())?;
    let blob = fetch(global, &args.component).await?;
    let bytes = blob.to_bytes(COMPONENT_BYTES_MAX).map_err(CliError::platform)?;
    let looked = tokio::task::spawn_blocking(move || {
        let untrusted = config.trusted_keys.check(blob.digest(), &bytes).err();
        (wasmjob_runtime::inspect(&bytes), untrusted.map(|untrusted| untrusted.to_string()), config)
    });
    let (mut found, untrusted, config) = looked.await.map_err(CliError::platform)?;
    found.problem = untrusted.or(found.problem);
    match global.json {
        true => render::json(&as_json(&found, &config)?)?,
        false => show(&found, &config)?,
    }
    Ok(if found.problem.is_none() { Exit::Done } else { Exit::Failed })
}

/// The bytes of a component: from a file, from the artifacts of this machine, or from the cluster.
async fn fetch(global: &Global, component: &str) -> Result<Blob, CliError> {
    if let Some(path) = as_file(component)? {
        return read_component(path);
    }
    match component.parse::<Digest>() {
        Ok(digest) => download(&*artifact::store(global).await?, &digest).await,
        Err(_) => {
            let cluster = Cluster::connect(global).await?;
            let digest = cluster.stored(component).await?;
            download(&*cluster.artifacts().await?, &digest).await
        }
    }
}

async fn download(store: &dyn ArtifactStore, digest: &Digest) -> Result<Blob, CliError> {
    let tree = std::sync::Arc::new(store.head(digest).await.map_err(|error| match error {
        error @ ArtifactError::NotFound { .. } => CliError::usage(error).hint("store it with `wasmjob push FILE`"),
        error => error.into(),
    })?);
    let size = tree.size();
    if size > COMPONENT_BYTES_MAX {
        return Err(CliError::usage(format!(
            "{digest} has {}, too much for a component: {} are compiled at most",
            render::bytes(size),
            render::bytes(COMPONENT_BYTES_MAX)
        )));
    }
    let (mut pieces, mut bytes) = (store.read(&tree, 0..size), Vec::new());
    while let Some(piece) = pieces.next().await {
        bytes.extend_from_slice(&piece?);
    }
    Ok(Blob::from_bytes(bytes.into()))
}

/// The inspection, whether it could run here, and of each signature whether it is trusted.
fn as_json(found: &Inspection, config: &Config) -> Result<Value, CliError> {
    let mut json = serde_json::to_value(found).map_err(CliError::platform)?;
    json["runs"] = found.problem.is_none().into();
    for (signature, shown) in found.signatures.iter().zip(json["signatures"].as_array_mut().into_iter().flatten()) {
        shown["trusted"] = match config.trusted_keys.is_empty() {
            true => Value::Null,
            false => config.trusted_keys.contains(&signature.key).into(),
        };
    }
    Ok(json)
}

fn show(found: &Inspection, config: &Config) -> Result<(), CliError> {
    let mut rows = vec![
        vec!["digest".into(), found.digest.to_string()],
        vec!["size".into(), render::bytes(found.size)],
        vec!["kind".into(), kind(found.kind).into()],
        vec!["runs".into(), found.problem.as_ref().map_or("yes".into(), |problem| format!("no: {problem}"))],
        vec!["code".into(), code(found)],
    ];
    rows.extend(found.core.memories.iter().map(|memory| vec!["memory".into(), show_memory(*memory)]));
    rows.extend(found.producers.iter().map(|producer| {
        vec![producer.field.clone(), format!("{} {}", producer.name, producer.version).trim().to_owned()]
    }));
    rows.extend(signatures(found, config).into_iter().map(|signature| vec!["signature".into(), signature]));
    render::table(&["what", "found"], &rows)?;
    if !found.exports.is_empty() {
        render::line("")?;
        let rows: Vec<_> = found.exports.iter().map(|export| vec![export.name.clone(), export.kind.into()]).collect();
        render::table(&["export", "kind"], &rows)?;
    }
    if !found.imports.is_empty() {
        render::line("")?;
        let rows: Vec<_> = found.imports.iter().map(|import| vec![import.name.clone(), needs(import.needs)]).collect();
        render::table(&["import", "needs"], &rows)?;
    }
    Ok(())
}

fn kind(kind: Option<JobKind>) -> &'static str {
    match kind {
        Some(JobKind::Job) => "job: it exports `run` of wasmjob:job/job",
        Some(JobKind::Command) => "command: it exports wasi:cli/run",
        Some(JobKind::Module) => "plain module: it is adapted when it is compiled",
        None => "none of those that run",
    }
}

fn code(found: &Inspection) -> String {
    let core = &found.core;
    let modules =
        if core.modules == 1 { "1 module".into() } else { format!("{} modules", render::count(core.modules)) };
    format!("{modules}, {} functions, {}", render::count(core.functions), render::bytes(core.code_bytes))
}

fn show_memory(memory: Memory) -> String {
    let pages = |pages: u64| format!("{pages} pages ({})", render::bytes(pages.saturating_mul(PAGE_BYTES)));
    match memory.pages_max {
        Some(max) => format!("{} to begin with, at most {}", pages(memory.pages_min), pages(max)),
        None => format!("{} to begin with, no maximum of its own", pages(memory.pages_min)),
    }
}

fn signatures(found: &Inspection, config: &Config) -> Vec<String> {
    if let Some(problem) = &found.signature_problem {
        return vec![format!("cannot be read: {problem}")];
    }
    if found.signatures.is_empty() {
        return vec!["none".into()];
    }
    let shown = found.signatures.iter().map(|signature| {
        let trusted = match (signature.valid, config.trusted_keys.is_empty()) {
            (false, _) => "wrong",
            (true, true) => "valid",
            (true, false) if config.trusted_keys.contains(&signature.key) => "valid, trusted",
            (true, false) => "valid, not trusted",
        };
        format!("{} {trusted}", signature.key)
    });
    shown.collect()
}

fn needs(need: Need) -> String {
    match need {
        Need::Nothing => "nothing".into(),
        Need::EmptyWithout(flag) => format!("nothing; empty without {flag}"),
        Need::Flag(flag) => flag.into(),
        Need::Unavailable => "cannot be had".into(),
    }
}
