//! The job spec: what is asked for, as a message that any NATS client can publish.

use std::{borrow::Cow, collections::BTreeMap, fmt, sync::LazyLock, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, MapAccess, Visitor},
};
use serde_json::{Map, Value};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use wasmjob_runtime::{
    Digest, Limits,
    limits::{ARGS_BYTES_MAX, CHOOSABLE, not_choosable},
};

use super::{GRANTS_MAX, Grant, JobId, class};
use crate::{grants::is_secret_name, retry};

/// The only version of the spec there is.
const VERSION: u32 = 1;
/// Bytes of a whole spec. It has to fit into one NATS message with room for the event around it.
pub const SPEC_BYTES_MAX: usize = 512 * 1024;

/// A job as it is submitted. Unknown fields are an error; what is left out has a default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// Version of the spec.
    pub v: u32,
    /// Id of the job.
    pub id: JobId,
    /// What runs: a digest, or a name given with `push --name`.
    pub component: String,
    /// What it reads.
    #[serde(default)]
    pub input: Input,
    /// Arguments after the program's name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Environment variables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Names of secrets it may read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// The queue it waits in.
    #[serde(default = "default_queue")]
    pub queue: String,
    /// 0 to 9, 9 first.
    #[serde(default = "default_priority")]
    pub priority: u8,
    /// What a node must have to run it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Limits that differ from the defaults.
    #[serde(default, skip_serializing_if = "LimitTable::is_empty")]
    pub limits: LimitTable,
    /// What it may reach.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<Grant>,
    /// Whether it must do the same in every run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deterministic: Option<Deterministic>,
    /// When to try again.
    #[serde(default)]
    pub retry: Retry,
    /// After how long the job is told that it should come to an end.
    #[serde(default = "default_soft_ms")]
    pub soft_ms: u64,
    /// Not to start before this time (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// The job is cancelled if it has not started this long after it could.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// How long the result is kept once the job has ended.
    #[serde(default = "default_result_ttl_ms")]
    pub result_ttl_ms: u64,
    /// A job with the same key is the same job, and runs once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedupe_key: Option<String>,
    /// With how many others that have the same key it may run at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
    /// The job that submitted this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<JobId>,
    /// The trace this job belongs to (W3C trace context).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// Fields that are part of the spec's contract and not built yet. They are refused unless they say
/// what is the case anyway, so that no promise is taken that is not kept.
const LATER: [&str; 5] = ["array", "reduce", "after", "after_policy", "memo"];

/// The fields of a spec, each there once: who reads the first of two and who reads the last would see
/// different jobs.
struct Fields(Map<String, Value>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Map::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if fields.contains_key(&name) {
                        return Err(de::Error::custom(format!("`{name}` is there twice")));
                    }
                    fields.insert(name, value);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Visit)
    }
}

/// A job that does the same in every run: virtual clocks, and random numbers of a seed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deterministic {
    /// Where its random numbers come from.
    #[serde(default)]
    pub seed: u64,
}

/// A key of which so many jobs may run at the same time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Concurrency {
    /// Any text.
    pub key: String,
    /// How many.
    pub max: u32,
}

/// When a job that failed is tried again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// Retries after the first attempt.
    pub max: u32,
    /// Kinds of outcome that are retried.
    pub on: Vec<String>,
    /// Wait before the first retry.
    pub backoff_ms: u64,
    /// What the wait is multiplied with each time.
    pub factor: f64,
    /// How the wait is spread.
    pub jitter: String,
    /// The longest wait.
    pub cap_ms: u64,
}

impl Default for Retry {
    fn default() -> Self {
        Retry {
            max: 0,
            on: vec!["error".into(), "trap".into()],
            backoff_ms: 60_000,
            factor: 2.0,
            jitter: "full".into(),
            cap_ms: 3_600_000,
        }
    }
}

/// Limits by name, as far as the job sets them: bytes, fuel or milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LimitTable(pub BTreeMap<Cow<'static, str>, u64>);

impl LimitTable {
    /// Every limit with its value.
    pub fn of(limits: &Limits) -> Self {
        LimitTable(CHOOSABLE.iter().filter_map(|info| Some((info.name.into(), limits.get(info.name)?))).collect())
    }

    /// Whether the job sets none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `defaults` with what the job sets, all of it below `maximum`.
    pub fn resolve(&self, defaults: &Limits, maximum: &Limits) -> Result<Limits, SpecError> {
        let mut limits = defaults.clone();
        for (name, value) in &self.0 {
            if !limits.set(name, *value) {
                return Err(SpecError::UnknownLimit { name: name.to_string() });
            }
        }
        match limits.first_above(maximum) {
            Some((info, asked, allowed)) => Err(SpecError::LimitTooHigh {
                name: info.name,
                asked: info.show(asked),
                allowed: info.show(allowed),
                impossible: asked > info.ceiling,
            }),
            None => Ok(limits),
        }
    }
}

/// What a job reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Input {
    /// A text as it is; any other JSON value as its JSON.
    Inline(Value),
    /// Bytes in base64.
    Base64(String),
    /// An artifact.
    Artifact(Digest),
    /// The output of another job.
    Job(JobId),
}

impl Default for Input {
    fn default() -> Self {
        Input::Inline(Value::String(String::new()))
    }
}

impl Input {
    /// An input of these bytes, as text if they are.
    pub fn inline(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Input::Inline(Value::String(text.to_owned())),
            Err(_) => Input::Base64(BASE64_STANDARD.encode(bytes)),
        }
    }

    /// The bytes, for inputs that carry them.
    pub fn bytes(&self) -> Result<Option<Bytes>, SpecError> {
        Ok(Some(match self {
            Input::Inline(Value::String(text)) => Bytes::from(text.clone()),
            Input::Inline(value) => Bytes::from(value.to_string()),
            Input::Base64(text) => BASE64_STANDARD
                .decode(text)
                .map_err(|error| SpecError::Field { field: "input", reason: format!("not base64: {error}") })?
                .into(),
            Input::Artifact(_) | Input::Job(_) => return Ok(None),
        }))
    }
}

fn default_queue() -> String {
    "default".into()
}

fn default_priority() -> u8 {
    5
}

fn default_soft_ms() -> u64 {
    3_600_000
}

fn default_result_ttl_ms() -> u64 {
    86_400_000
}

/// What is wrong with a spec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Not JSON, or not of this shape.
    #[error("not a job spec: {reason}")]
    Malformed {
        /// What the parser says.
        reason: String,
    },
    /// A field has a value that makes no sense.
    #[error("`{field}` of the job spec: {reason}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A field that this version cannot honour.
    #[error("`{field}` of the job spec is not available in this version")]
    NotYet {
        /// The field.
        field: &'static str,
    },
    /// A limit that does not exist.
    #[error("{}", not_choosable(name))]
    UnknownLimit {
        /// As it was given.
        name: String,
    },
    /// A limit above what the operator allows.
    #[error("the limit {name}={asked} is above the {allowed} that is allowed here")]
    LimitTooHigh {
        /// Which.
        name: &'static str,
        /// What the job wants, with its unit.
        asked: String,
        /// What the operator allows, with its unit.
        allowed: String,
        /// Whether even an operator could not allow it.
        impossible: bool,
    },
}

impl JobSpec {
    /// A job of this component with nothing but defaults.
    pub fn new(id: JobId, component: impl Into<String>) -> Self {
        JobSpec {
            v: VERSION,
            id,
            component: component.into(),
            input: Input::default(),
            args: Vec::new(),
            env: BTreeMap::new(),
            queue: default_queue(),
            priority: default_priority(),
            secrets: Vec::new(),
            labels: BTreeMap::new(),
            limits: LimitTable::default(),
            grants: Vec::new(),
            deterministic: None,
            retry: Retry::default(),
            soft_ms: default_soft_ms(),
            at: None,
            expires_ms: None,
            result_ttl_ms: default_result_ttl_ms(),
            dedupe_key: None,
            concurrency: None,
            parent: None,
            traceparent: None,
        }
    }

    /// What the job is, whatever its id and whenever it starts.
    pub fn fingerprint(&self) -> Digest {
        let bare = JobSpec { id: JobId::of_tick("", 0), at: None, traceparent: None, ..self.clone() };
        Digest::of(&bare.to_message())
    }

    /// Reads a spec from a message and checks everything that can be checked without asking anybody.
    pub fn parse(message: &[u8]) -> Result<Self, SpecError> {
        if message.len() > SPEC_BYTES_MAX {
            let reason = format!("it has {} bytes, more than {SPEC_BYTES_MAX}", message.len());
            return Err(SpecError::Malformed { reason });
        }
        // Almost all are read in one go. Who reads this way finds fields that are there twice as well.
        if let Ok(spec) = serde_json::from_slice::<JobSpec>(message) {
            return spec.check().map(|()| spec);
        }
        let malformed = |error: serde_json::Error| SpecError::Malformed { reason: error.to_string() };
        let Fields(mut fields) = serde_json::from_slice(message).map_err(malformed)?;
        for field in LATER {
            if fields.remove(field).is_some_and(|value| asks_for_something(field, &value)) {
                return Err(SpecError::NotYet { field });
            }
        }
        let spec: JobSpec = serde_json::from_value(Value::Object(fields)).map_err(malformed)?;
        spec.check()?;
        Ok(spec)
    }

    /// Checks the values of the fields.
    pub fn check(&self) -> Result<(), SpecError> {
        let wrong = |field, reason: String| Err(SpecError::Field { field, reason });
        if self.v != VERSION {
            return wrong("v", format!("this version reads {VERSION}, not {}", self.v));
        }
        if !is_queue_name(&self.queue) {
            return wrong("queue", format!("`{}` is no queue name: 1 to 32 of a-z, 0-9 and -", self.queue));
        }
        if self.priority > 9 {
            return wrong("priority", format!("0 to 9 are possible, not {}", self.priority));
        }
        if !(RESULT_TTL_MS_MIN..=RESULT_TTL_MS_MAX).contains(&self.result_ttl_ms) {
            return wrong(
                "result_ttl_ms",
                format!("{RESULT_TTL_MS_MIN} to {RESULT_TTL_MS_MAX} milliseconds (a minute to ten years) are possible"),
            );
        }
        let args: usize = self.args.iter().map(String::len).sum();
        let env: usize = self.env.iter().map(|(name, value)| name.len() + value.len()).sum();
        if args + env > ARGS_BYTES_MAX {
            return wrong("args", format!("{} bytes with `env`, more than {ARGS_BYTES_MAX}", args + env));
        }
        if self.args.iter().any(|arg| arg.contains('\0')) {
            return wrong("args", "an argument cannot contain a zero byte".into());
        }
        if let Some((name, _)) =
            self.env.iter().find(|(name, value)| name.is_empty() || name.contains(['=', '\0']) || value.contains('\0'))
        {
            return wrong("env", format!("`{name}` cannot be an environment variable"));
        }
        class::check_labels(&self.labels).map_err(|reason| SpecError::Field { field: "labels", reason })?;
        if let Some(name) = self.secrets.iter().find(|name| !is_secret_name(name)) {
            return wrong("secrets", format!("`{name}` is no name for a secret: 1 to 64 of A-Z, a-z, 0-9, - and _"));
        }
        self.check_grants().map_err(|reason| SpecError::Field { field: "grants", reason })?;
        if self.traceparent.as_deref().is_some_and(|trace| !is_traceparent(trace)) {
            return wrong("traceparent", "not of the form 00-<32 hex>-<16 hex>-<2 hex>".into());
        }
        retry::check(&self.retry).map_err(|reason| SpecError::Field { field: "retry", reason })?;
        self.check_times()?;
        self.check_keys()?;
        self.input.bytes()?;
        if !class::is_class(&self.class()) {
            let reason = "a folder is named as a node offers it, NAME or NAME/PATH with NAME of a-z, 0-9, - and _; and \
                          names of folders, secrets and labels have at most 200 bytes together";
            return wrong("grants", reason.into());
        }
        self.check_available()
    }

    /// After how long a job with this wall limit is told to come to an end: while a tenth of that is left.
    pub fn soft(&self, wall_ms: u64) -> Duration {
        Duration::from_millis(self.soft_ms.min(wall_ms - wall_ms / 10))
    }

    /// When it may start: nothing if that is at once.
    pub fn starts_at(&self) -> Option<OffsetDateTime> {
        OffsetDateTime::parse(self.at.as_deref()?, &Rfc3339).ok()
    }

    fn check_times(&self) -> Result<(), SpecError> {
        let wrong = |field, reason: String| Err(SpecError::Field { field, reason });
        if let Some(at) = &self.at {
            let Some(time) = self.starts_at() else {
                return wrong("at", format!("`{at}` is no time like 2026-01-31T07:30:00Z"));
            };
            // Ids carry when a job was submitted, by the submitter's clock.
            let latest = self.id.submitted().and_then(|time| time.checked_add(AT_MAX));
            if latest.is_none_or(|latest| time > latest) {
                return wrong("at", format!("`{at}` is more than ten years from now"));
            }
        }
        match self.expires_ms {
            Some(ms) if !(1..=RESULT_TTL_MS_MAX).contains(&ms) => {
                wrong("expires_ms", format!("1 to {RESULT_TTL_MS_MAX} milliseconds (ten years) are possible"))
            }
            _ => Ok(()),
        }
    }

    fn check_keys(&self) -> Result<(), SpecError> {
        let wrong = |field, reason: String| Err(SpecError::Field { field, reason });
        let is_key = |key: &str| (1..=KEY_BYTES_MAX).contains(&key.len());
        if self.dedupe_key.as_deref().is_some_and(|key| !is_key(key)) {
            return wrong("dedupe_key", format!("1 to {KEY_BYTES_MAX} bytes are possible"));
        }
        match &self.concurrency {
            Some(Concurrency { key, .. }) if !is_key(key) => {
                wrong("concurrency", format!("a key has 1 to {KEY_BYTES_MAX} bytes"))
            }
            Some(Concurrency { max, .. }) if !(1..=CONCURRENCY_MAX).contains(max) => {
                wrong("concurrency", format!("`max` can be 1 to {CONCURRENCY_MAX}, not {max}"))
            }
            _ => Ok(()),
        }
    }

    /// Checks that the grants fit together. Errors: what is wrong.
    pub fn check_grants(&self) -> Result<(), String> {
        if self.grants.len() + self.secrets.len() > GRANTS_MAX {
            return Err(format!("{} with `secrets`, more than {GRANTS_MAX}", self.grants.len() + self.secrets.len()));
        }
        let twice = ["scratch", "clock", "random", "jobs"].into_iter().find(|name| self.granted(name).count() > 1);
        if let Some(name) = twice {
            return Err(format!("`{name}` is there more than once"));
        }
        // What a node has, what time it is and what others do differs from run to run.
        let foreign = self.grants.iter().find(|_| self.deterministic.is_some());
        match foreign {
            Some(grant) => Err(format!("a deterministic job is granted nothing, and this one asks for {grant}")),
            None => Ok(()),
        }
    }

    fn granted<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Grant> {
        self.grants.iter().filter(move |grant| grant.name() == name)
    }

    /// What it requires of a node.
    pub fn class(&self) -> String {
        class::of(self)
    }

    /// Refuses what the contract has and this version has not.
    fn check_available(&self) -> Result<(), SpecError> {
        match self.input {
            Input::Job(_) => Err(SpecError::NotYet { field: "input.job" }),
            _ => Ok(()),
        }
    }

    /// The message to publish: without what is the case anyway, which most of a spec is.
    pub fn to_message(&self) -> Bytes {
        json(&Brief::of(self), SPEC_BYTES_USUAL)
    }
}

/// A spec without its defaults.
#[derive(Serialize)]
struct Brief<'a> {
    v: u32,
    id: JobId,
    component: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<&'a Input>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    args: &'a [String],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    env: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    secrets: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u8>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "LimitTable::is_empty")]
    limits: &'a LimitTable,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    grants: &'a [Grant],
    #[serde(skip_serializing_if = "Option::is_none")]
    deterministic: Option<Deterministic>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<&'a Retry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    soft_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result_ttl_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dedupe_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    concurrency: Option<&'a Concurrency>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<JobId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
}

impl<'a> Brief<'a> {
    fn of(spec: &'a JobSpec) -> Self {
        static USUAL: LazyLock<JobSpec> = LazyLock::new(|| JobSpec::new(JobId::of_tick("", 0), ""));
        // Every field is named, so that none that comes later is forgotten.
        let JobSpec {
            v,
            id,
            component,
            input,
            args,
            env,
            secrets,
            queue,
            priority,
            labels,
            limits,
            grants,
            deterministic,
            retry,
            soft_ms,
            at,
            expires_ms,
            result_ttl_ms,
            dedupe_key,
            concurrency,
            parent,
            traceparent,
        } = spec;
        Brief {
            v: *v,
            id: *id,
            component,
            input: (*input != USUAL.input).then_some(input),
            args,
            env,
            secrets,
            queue: (*queue != USUAL.queue).then_some(queue),
            priority: (*priority != USUAL.priority).then_some(*priority),
            labels,
            limits,
            grants,
            deterministic: *deterministic,
            retry: (*retry != USUAL.retry).then_some(retry),
            soft_ms: (*soft_ms != USUAL.soft_ms).then_some(*soft_ms),
            at: at.as_deref(),
            expires_ms: *expires_ms,
            result_ttl_ms: (*result_ttl_ms != USUAL.result_ttl_ms).then_some(*result_ttl_ms),
            dedupe_key: dedupe_key.as_deref(),
            concurrency: concurrency.as_ref(),
            parent: *parent,
            traceparent: traceparent.as_deref(),
        }
    }
}

/// Bytes of most specs.
const SPEC_BYTES_USUAL: usize = 256;

/// `value` as JSON, into a buffer that need not grow if the guess about its length is right.
pub(super) fn json(value: &impl Serialize, bytes_usual: usize) -> Bytes {
    let mut text = Vec::with_capacity(bytes_usual);
    serde_json::to_writer(&mut text, value).expect("it has only string keys, and memory takes everything");
    text.into()
}

/// Bytes of a key.
const KEY_BYTES_MAX: usize = 256;
/// Jobs with one concurrency key that may run at the same time.
const CONCURRENCY_MAX: u32 = 1_000;
/// A result must outlive the longest time in which the queue may deliver its job once more.
const RESULT_TTL_MS_MIN: u64 = 60_000;
/// Ten years. The server counts in nanoseconds and refuses a time to live that overflows, and a
/// result that cannot be stored would be tried again for ever.
const RESULT_TTL_MS_MAX: u64 = 3_650 * 86_400_000;

/// Longest time until a job that waits for a time may start.
const AT_MAX: time::Duration = time::Duration::days(3_650);

/// Whether `text` is a trace parent of W3C trace context.
fn is_traceparent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let hex = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    parts.iter().map(|part| part.len()).eq([2, 32, 16, 2]) && parts.iter().all(|part| hex(part))
}

/// Whether `name` can be a queue's name.
pub fn is_queue_name(name: &str) -> bool {
    let valid = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=32).contains(&name.len()) && name.bytes().all(valid)
}

/// Whether a field says anything else than what is the case without it.
fn asks_for_something(field: &str, value: &Value) -> bool {
    match value {
        // Without jobs to wait for it has no meaning.
        Value::String(policy) if field == "after_policy" => policy != "succeeded",
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "01arz3ndektsv4rrffq69g5fav";

    fn parse(rest: &str) -> Result<JobSpec, SpecError> {
        JobSpec::parse(format!(r#"{{"v":1,"id":"{ID}","component":"hello"{rest}}}"#).as_bytes())
    }

    #[test]
    fn a_job_is_told_to_end_while_there_is_time_for_that() {
        let soft = |soft_ms, wall_ms| {
            JobSpec { soft_ms, ..JobSpec::new(crate::wire::new_job_id(), "x") }.soft(wall_ms).as_millis()
        };
        assert_eq!([soft(3_600_000, 7_200_000), soft(3_600_000, 600_000), soft(5, 5)], [3_600_000, 540_000, 5]);
        assert_eq!(soft(u64::MAX, u64::MAX), u128::from(u64::MAX - u64::MAX / 10));
    }

    #[test]
    fn a_spec_gets_defaults_and_reads_back_from_its_own_message() {
        let spec = parse("").unwrap();
        assert_eq!((spec.queue.as_str(), spec.priority, spec.result_ttl_ms), ("default", 5, 86_400_000));
        assert_eq!(JobSpec::parse(&spec.to_message()), Ok(spec));
        let full = parse(r#","input":{"base64":"AP8="},"args":["a"],"env":{"K":"V"},"limits":{"fuel":7},"labels":{}"#)
            .unwrap();
        assert_eq!(full.input.bytes().unwrap().unwrap(), &[0, 255][..]);
        assert_eq!(JobSpec::parse(&full.to_message()), Ok(full));
    }

    #[test]
    fn a_message_leaves_out_defaults_and_nothing_else() {
        let usual = parse("").unwrap();
        assert_eq!(usual.to_message(), format!(r#"{{"v":1,"id":"{ID}","component":"hello"}}"#));
        let all = r#","input":{"inline":"x"},"args":["a"],"env":{"K":"V"},"secrets":["s"],"queue":"ml","priority":1,
            "labels":{"gpu":"a"},"limits":{"fuel":7},"grants":["scratch=1000"],"retry":{"max":1},"soft_ms":5,
            "at":"2016-07-30T23:54:10Z","expires_ms":6,"result_ttl_ms":60000,"dedupe_key":"k",
            "concurrency":{"key":"c","max":2},"parent":"01arz3ndektsv4rrffq69g5fav",
            "traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01""#;
        let all = parse(all).unwrap();
        assert_eq!(JobSpec::parse(&all.to_message()), Ok(all));
        let same = parse(r#","deterministic":{"seed":4}"#).unwrap();
        assert_eq!(JobSpec::parse(&same.to_message()), Ok(same));
    }

    #[test]
    fn the_contract_with_all_its_defaults_is_accepted() {
        let rest = r#","input":{"inline":""},"args":[],"env":{},"secrets":[],"queue":"default","priority":5,"labels":{},
            "limits":{},"grants":[],"deterministic":null,"retry":{"max":0,"on":["error","trap"],"backoff_ms":60000,
            "factor":2,"jitter":"full","cap_ms":3600000},"soft_ms":3600000,"at":null,"expires_ms":null,
            "result_ttl_ms":86400000,"dedupe_key":null,"concurrency":null,"parent":null,"array":null,"reduce":null,
            "after":[],"after_policy":"succeeded","memo":false,"traceparent":null"#;
        assert_eq!(parse(rest), parse(""));
    }

    #[test]
    fn inputs_that_are_no_text_arrive_as_their_json() {
        let spec = parse(r#","input":{"inline":{"n":[1,2]}}"#).unwrap();
        assert_eq!(spec.input.bytes().unwrap().unwrap(), r#"{"n":[1,2]}"#);
        assert_eq!(Input::inline(b"abc").bytes().unwrap().unwrap(), "abc");
        assert_eq!(Input::inline(&[255]).bytes().unwrap().unwrap(), &[255][..]);
    }

    #[test]
    fn what_is_wrong_with_a_spec_is_named() {
        for (rest, named) in [
            (r#","colour":1"#, "colour"),
            (r#","queue":"a","queue":"b""#, "twice"),
            (r#","queue":"Default""#, "queue"),
            (r#","env":{"A=B":"1"}"#, "A=B"),
            (r#","input":{"base64":"!"}"#, "base64"),
            (r#","input":{"file":"x"}"#, "file"),
            (r#","result_ttl_ms":1"#, "result_ttl_ms"),
            (r#","limits":{"fuel":-1}"#, "-1"),
            (r#","retry":{"max":300}"#, "300"),
            (r#","retry":{"on":["never"]}"#, "never"),
            (r#","at":"tomorrow""#, "tomorrow"),
            (r#","at":"9999-01-01T00:00:00Z""#, "ten years"),
            (r#","expires_ms":0"#, "expires_ms"),
            (r#","priority":10"#, "priority"),
            (r#","labels":{"gpu":"a b"}"#, "labels"),
            (r#","grants":["disk=1"]"#, "disk"),
            (r#","grants":["jobs=1","jobs=2"]"#, "jobs"),
            (r#","grants":["clock=real"],"deterministic":{"seed":1}"#, "deterministic"),
            (r#","deterministic":{"sed":1}"#, "sed"),
            (r#","secrets":["a/b"]"#, "a/b"),
            (r#","after":["x"]"#, "after"),
            (r#","dedupe_key":"""#, "dedupe_key"),
            (r#","concurrency":{"key":"gpu","max":0}"#, "1 to 1000"),
            (r#","concurrency":{"key":"gpu"}"#, "max"),
            (r#","traceparent":"00-x""#, "traceparent"),
            (&format!(r#","args":["{}"]"#, "x".repeat(ARGS_BYTES_MAX + 1)), "131072"),
        ] {
            let error = parse(rest).unwrap_err().to_string();
            assert!(error.contains(named), "{rest}: {error}");
        }
        assert!(JobSpec::parse(b"{").is_err() && JobSpec::parse(b"[]").is_err());
        assert!(JobSpec::parse(br#"{"v":2,"id":"01arz3ndektsv4rrffq69g5fav","component":"x"}"#).is_err());
        assert!(JobSpec::parse(&vec![b' '; SPEC_BYTES_MAX + 1]).is_err());
    }

    #[test]
    fn limits_are_resolved_against_defaults_and_maximum() {
        let (defaults, maximum) = (Limits::default(), Limits::maximum_default());
        let table = |name: &str, value| LimitTable([(name.to_owned().into(), value)].into());
        assert_eq!(table("fuel", 7).resolve(&defaults, &maximum).unwrap(), Limits { fuel: 7, ..defaults.clone() });
        let unknown = table("disk", 7).resolve(&defaults, &maximum).unwrap_err().to_string();
        assert!(unknown.contains("disk") && unknown.contains("fuel, memory, wall"), "{unknown}");
        let high = table("memory", u64::MAX).resolve(&defaults, &maximum).unwrap_err().to_string();
        assert!(high.contains("memory=") && high.contains("4GiB"), "{high}");
    }
}
