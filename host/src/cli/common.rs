//! Flags and steps that several commands share: naming a component, reading an input, connecting.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use clap::Args;
use wasmjob_runtime::{Blob, BlobWriter, Digest, Limits, limits::COMPONENT_BYTES_MAX};

use super::{CliError, Global, render, sign};
use crate::{
    artifacts::{self, ArtifactError, ArtifactStore},
    config::Config,
    connect,
    grants::Offers,
    limit_values,
    queue::{self, Broker},
    wire::{Deterministic, Grant, JobSpec, LimitTable, is_queue_name, new_job_id},
};

/// Bytes of an input or component that are kept in memory; more goes to a temporary file.
const MEMORY_BYTES: usize = 4 << 20;

/// What a job gets: the same for `run` and `submit`.
#[derive(Args, Clone)]
pub(crate) struct JobArgs {
    /// What to run: a file, a digest, or a name given with `push --name` (`run`: a file)
    pub(crate) component: String,
    /// Input: a text, @FILE for the content of a file, - for standard input
    #[arg(long, value_name = "TEXT|@FILE|-", allow_hyphen_values = true)]
    input: Option<String>,
    /// Argument for the job (repeatable)
    #[arg(long = "arg", value_name = "ARG", allow_hyphen_values = true)]
    arg: Vec<String>,
    /// Environment variable for the job (repeatable)
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// Limit (repeatable): fuel=1e9, memory=64MiB, wall=5s, output=1MiB, input=1GiB, log=1MiB, table=1000, handles=100, instances=10
    #[arg(long = "limit", value_name = "NAME=VALUE", value_parser = pair)]
    limit: Vec<(String, String)>,
    /// What the job may reach (repeatable): fs=HOST[::GUEST]:ro|rw, scratch=BYTES, net=HOST:PORT, http=HOST[:PORT],
    /// clock=coarse|real, random=real|seed:N, artifacts=PREFIX:ro|rw, jobs=N
    #[arg(long, value_name = "NAME=VALUE")]
    grant: Vec<Grant>,
    /// Secret the job may read, kept where it runs (repeatable; see `wasmjob secret`)
    #[arg(long, value_name = "NAME")]
    secret: Vec<String>,
    /// Same output and fuel in every run: virtual clocks, random numbers of this seed [default: 0]
    #[arg(long, value_name = "SEED", num_args = 0..=1, require_equals = true, default_missing_value = "0")]
    deterministic: Option<u64>,
    /// More arguments for the job
    #[arg(last = true, value_name = "ARGS")]
    rest: Vec<String>,
}

pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("NAME=VALUE is wanted".into()),
    }
}

impl JobArgs {
    /// Arguments in the order they were given.
    pub(crate) fn args(&self) -> Vec<String> {
        self.arg.iter().chain(&self.rest).cloned().collect()
    }

    /// Environment variables; the last value of a name counts.
    pub(crate) fn env(&self) -> BTreeMap<String, String> {
        self.env.iter().cloned().collect()
    }

    /// A spec with what both commands take, its grants checked among themselves and against `offers`.
    pub(crate) fn spec(&self, offers: &Offers) -> Result<JobSpec, CliError> {
        let spec = JobSpec {
            args: self.args(),
            env: self.env(),
            grants: self.grant.clone(),
            secrets: self.secret.clone(),
            deterministic: self.deterministic.map(|seed| Deterministic { seed }),
            ..JobSpec::new(new_job_id(), String::new())
        };
        spec.check_grants().map_err(CliError::usage)?;
        offers.check(&spec)?;
        Ok(spec)
    }

    /// The limits that were given, and all limits as they will be, checked against the maximum.
    pub(crate) fn limits(&self, config: &Config) -> Result<(LimitTable, Limits), CliError> {
        let (defaults, maximum) = limit_values::limits(config)?;
        let given = limit_values::table(&self.limit)?;
        let limits = given.resolve(&defaults, &maximum)?;
        Ok((given, limits))
    }

    /// Reads the input, never all of it into memory, and no more than `bytes_max`.
    pub(crate) fn input(&self, bytes_max: u64) -> Result<Blob, CliError> {
        let input = match self.input.as_deref() {
            None => Blob::from_bytes("".into()),
            Some("-") => read_all(io::stdin().lock(), "the input", bytes_max)?,
            Some(input) => match input.strip_prefix('@') {
                Some(path) => read_file(Path::new(path), bytes_max)?,
                None => Blob::from_bytes(input.to_owned().into()),
            },
        };
        check_size("the input", input.size(), bytes_max)?;
        Ok(input)
    }
}

fn check_size(name: &str, bytes: u64, bytes_max: u64) -> Result<(), CliError> {
    if bytes <= bytes_max {
        return Ok(());
    }
    let (bytes, bytes_max) = (render::bytes(bytes), render::bytes(bytes_max));
    Err(CliError::usage(format!("{name} has {bytes} or more, and {bytes_max} are allowed"))
        .hint("for an input the limit is --limit input=SIZE"))
}

/// Reads a file into a blob, if it has no more than `bytes_max` bytes.
pub(crate) fn read_file(path: &Path, bytes_max: u64) -> Result<Blob, CliError> {
    let cannot = |error: io::Error| CliError::usage(format!("the file {} cannot be read: {error}", path.display()));
    let file = File::open(path).map_err(cannot)?;
    let metadata = file.metadata().map_err(cannot)?;
    if metadata.is_dir() {
        return Err(CliError::usage(format!("{} is a folder; a file is wanted", path.display())));
    }
    let name = path.display().to_string();
    check_size(&name, metadata.len(), bytes_max)?;
    read_all(file, &name, bytes_max)
}

/// Reads everything into a blob, if that is no more than `bytes_max` bytes.
pub(crate) fn read_all(from: impl Read, name: &str, bytes_max: u64) -> Result<Blob, CliError> {
    let mut writer = BlobWriter::new(&std::env::temp_dir(), MEMORY_BYTES);
    let mut from = from.take(bytes_max.saturating_add(1));
    let kept = io::copy(&mut from, &mut writer).and_then(|_| writer.finish());
    let blob = kept.map_err(|error| CliError::platform(format!("{name} cannot be read: {error}")))?;
    check_size(name, blob.size(), bytes_max)?;
    Ok(blob)
}

/// Reads a component. What is too large to be compiled is not even uploaded.
pub(crate) fn read_component(path: &Path) -> Result<Blob, CliError> {
    read_file(path, COMPONENT_BYTES_MAX)
}

/// Tells of a file that cannot be a component, where nobody would be told how its job ended.
pub(crate) fn check_is_wasm(path: &Path) -> Result<(), CliError> {
    let mut magic = [0; 4];
    // What cannot be read is told by whoever reads it.
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    if read.is_ok() && magic == *b"\0asm" {
        return Ok(());
    }
    Err(CliError::usage(format!("{} is no WebAssembly", path.display()))
        .hint("name the .wasm file that your build made; `wasmjob inspect` shows what is in one"))
}

/// A cluster as commands see it.
pub(crate) struct Cluster {
    json: bool,
    pub(crate) config: Config,
    pub(crate) broker: Broker,
}

impl Cluster {
    /// Connects to where the flags, the environment, the configuration or a running `up` say.
    pub(crate) async fn connect(global: &Global) -> Result<Self, CliError> {
        let config = global.load(Vec::new())?;
        let endpoint = connect::find(&config, global.join.as_deref())?;
        let client = connect::connect(&endpoint).await?;
        Ok(Cluster { json: global.json, config, broker: Broker::new(client) })
    }

    /// Says what to look out for.
    pub(crate) fn warn(&self, text: impl AsRef<str>) {
        render::warn(self.json, text);
    }

    /// The cluster's artifacts.
    pub(crate) async fn artifacts(&self) -> Result<Arc<dyn ArtifactStore>, CliError> {
        let url = self.config.artifacts.url.as_deref();
        Ok(artifacts::open(url, Some(self.broker.jetstream.clone()), &self.config.data.join("artifacts")).await?)
    }

    /// Tells of a queue that nobody has made.
    pub(crate) async fn check_queue(&self, queue: &str) -> Result<(), CliError> {
        if !is_queue_name(queue) {
            return Err(CliError::usage(format!("`{queue}` is no queue name: 1 to 32 of a-z, 0-9 and -")));
        }
        let queues = queue::queues(&self.broker.jetstream).await?;
        match queues.iter().any(|known| known == queue) {
            true => Ok(()),
            false => Err(CliError::usage(format!("there is no queue `{queue}`; there are {}", queues.join(", ")))
                .hint("a queue begins with a node that works on it: `--queues`")),
        }
    }

    /// The digest of a component given as file, digest or name; and a file's bytes, which may not be stored yet.
    pub(crate) async fn find(&self, component: &str) -> Result<(Digest, Option<Blob>), CliError> {
        if let Some(path) = as_file(component)? {
            let blob = read_component(path)?;
            sign::check(&self.config, &blob)?;
            return Ok((blob.digest(), Some(blob)));
        }
        Ok((self.stored(component).await?, None))
    }

    /// The digest of a component that is stored, given as digest or name.
    pub(crate) async fn stored(&self, component: &str) -> Result<Digest, CliError> {
        let digest = match component.parse::<Digest>() {
            Ok(digest) => digest,
            Err(_) => self.named(component).await?,
        };
        match self.artifacts().await?.head(&digest).await {
            Ok(_) => Ok(digest),
            Err(error @ ArtifactError::NotFound { .. }) => {
                Err(CliError::usage(error).hint("store it with `wasmjob push FILE`"))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn named(&self, name: &str) -> Result<Digest, CliError> {
        let missing = || {
            CliError::usage(format!("there is no file `{name}`, and nothing was pushed under that name"))
                .hint("build the component first, or give it a name with `wasmjob push --name NAME FILE`")
        };
        crate::names::resolve(&self.broker, name).await?.ok_or_else(missing)
    }
}

/// Stores a blob unless it is stored already.
pub(crate) async fn upload(store: &dyn ArtifactStore, blob: &Blob, what: &str) -> Result<(), CliError> {
    let bar = render::spinner(format!("{what} ({})", render::bytes(blob.size())));
    let stored = store.put(blob).await;
    bar.finish_and_clear();
    Ok(stored?)
}

/// The file that `component` means, if it means one.
pub(crate) fn as_file(component: &str) -> Result<Option<&Path>, CliError> {
    let path = Path::new(component);
    if path.exists() && !path.is_dir() {
        return Ok(Some(path));
    }
    let looks_like_one = component.contains('/') || component.ends_with(".wasm");
    if looks_like_one {
        let what = if path.is_dir() { "is a folder, not a component" } else { "does not exist" };
        return Err(
            CliError::usage(format!("the file {component} {what}")).hint("name the .wasm file that your build made")
        );
    }
    Ok(None)
}
