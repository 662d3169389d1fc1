//! Jobs that jobs submit.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use async_trait::async_trait;
use serde_json::{Map, Value};
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;
use wasmjob_runtime::{
    AccessError,
    grants::{Children, Clock, Random},
};

use crate::{
    queue::{Broker, QueueError},
    wire::{Grant, JobSpec},
};

/// Submits the children of one attempt.
pub struct ClusterChildren {
    broker: Arc<Broker>,
    io: Handle,
    parent: Arc<JobSpec>,
    attempt: u32,
    /// Children so far and all that they may submit in turn.
    spent: AtomicU32,
}

impl ClusterChildren {
    /// For the attempt with this number at `parent`.
    pub fn new(broker: Arc<Broker>, parent: Arc<JobSpec>, attempt: u32) -> Self {
        ClusterChildren { broker, io: Handle::current(), parent, attempt, spent: AtomicU32::new(0) }
    }

    fn spend(&self, child: &JobSpec) -> Result<(), AccessError> {
        let max = jobs_granted(&self.parent);
        let cost = jobs_granted(child).saturating_add(1);
        let spend = |spent: u32| spent.checked_add(cost).filter(|spent| *spent <= max);
        let spent = self.spent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend);
        spent.map(drop).map_err(|spent| {
            AccessError::Refused(format!("the job may have {max} descendants, has {spent} and wants {cost} more"))
        })
    }
}

#[async_trait]
impl Children for ClusterChildren {
    async fn submit(&self, number: u32, spec: &str) -> Result<String, AccessError> {
        let child = child(&self.parent, number, spec).map_err(AccessError::Refused)?;
        self.spend(&child)?;
        let (broker, id, again) = (self.broker.clone(), child.id, self.attempt > 1);
        let submit = async move {
            // An earlier attempt may have submitted it, longer ago than the queue remembers.
            let known = again && broker.is_known(child.id).await?;
            if known { Ok::<_, QueueError>(id) } else { broker.submit(&child).await }
        };
        let submitted = AbortOnDropHandle::new(self.io.spawn(submit))
            .await
            .map_err(|error| AccessError::Unavailable(error.to_string()))?;
        submitted.map(|id| id.to_string()).map_err(|error| match error {
            QueueError::UnknownQueue { .. } | QueueError::TooLarge { .. } | QueueError::KeyTaken { .. } => {
                AccessError::Refused(error.to_string())
            }
            error => AccessError::Unavailable(error.to_string()),
        })
    }
}

fn jobs_granted(spec: &JobSpec) -> u32 {
    let granted = spec.grants.iter().map(|grant| if let Grant::Jobs(max) = grant { *max } else { 0 });
    granted.max().unwrap_or(0)
}

/// The spec of a child: what the parent wrote, with what it inherits.
/// Errors: what is wrong with it.
fn child(parent: &JobSpec, number: u32, spec: &str) -> Result<JobSpec, String> {
    let mut fields: Map<String, Value> =
        serde_json::from_str(spec).map_err(|error| format!("not a job spec: {error}"))?;
    if let Some(field) = ["v", "id", "parent"].into_iter().find(|field| fields.contains_key(*field)) {
        return Err(format!("`{field}` of a child is not for its parent to say"));
    }
    fields.insert("v".into(), 1.into());
    fields.insert("id".into(), parent.id.child(number).to_string().into());
    fields.insert("parent".into(), parent.id.to_string().into());
    for (field, inherited) in [
        ("component", Value::from(parent.component.as_str())),
        ("queue", parent.queue.as_str().into()),
        ("priority", parent.priority.into()),
    ] {
        fields.entry(field).or_insert(inherited);
    }
    let child = JobSpec::parse(Value::Object(fields).to_string().as_bytes()).map_err(|error| error.to_string())?;
    if let Some(grant) = child.grants.iter().find(|grant| !parent.grants.iter().any(|own| covers(own, grant))) {
        return Err(format!("the grant {grant} is more than this job has itself"));
    }
    if let Some(name) = child.secrets.iter().find(|name| !parent.secrets.contains(name)) {
        return Err(format!("the secret `{name}` is none of this job's own"));
    }
    Ok(child)
}

/// Whether who has `own` may give `wanted` away.
fn covers(own: &Grant, wanted: &Grant) -> bool {
    match (own, wanted) {
        (Grant::Fs { host, write, .. }, Grant::Fs { host: wanted, write: change, .. }) => {
            host == wanted && (*write || !change)
        }
        (Grant::Scratch(own), Grant::Scratch(wanted)) => wanted <= own,
        (Grant::Jobs(own), Grant::Jobs(wanted)) => wanted < own,
        (Grant::Artifacts { prefix, write }, Grant::Artifacts { prefix: wanted, write: change }) => {
            wanted.starts_with(prefix.as_str()) && (*write || !change)
        }
        (Grant::Random(_), Grant::Random(Random::Real | Random::Seed(_))) | (_, Grant::Clock(Clock::Coarse)) => true,
        (own, wanted) => own == wanted,
    }
}

/// Where there is no cluster.
pub struct NoChildren;

#[async_trait]
impl Children for NoChildren {
    async fn submit(&self, _: u32, _: &str) -> Result<String, AccessError> {
        Err(AccessError::Refused("`wasmjob run` has no cluster to submit jobs to; `wasmjob submit` this one".into()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::new_job_id;

    fn parent() -> JobSpec {
        let grants = ["jobs=5", "fs=data:ro", "scratch=1000"].map(|grant| grant.parse().unwrap()).to_vec();
        JobSpec { grants, secrets: vec!["key".into()], ..JobSpec::new(new_job_id(), "hello") }
    }

    #[test]
    fn a_child_inherits_what_it_does_not_say() {
        let parent = parent();
        let made =
            child(&parent, 3, r#"{"args":["x"],"grants":["fs=data::/in:ro","jobs=4"],"secrets":["key"]}"#).unwrap();
        assert_eq!((made.component.as_str(), made.queue.as_str(), made.parent), ("hello", "default", Some(parent.id)));
        assert_eq!(made.id, child(&parent, 3, "{}").unwrap().id);
        assert_ne!(made.id, child(&parent, 4, "{}").unwrap().id);
    }

    #[test]
    fn a_child_gets_nothing_its_parent_has_not() {
        for (spec, named) in [
            (r#"{"grants":["fs=data:rw"]}"#, "fs=data:rw"),
            (r#"{"grants":["fs=other:ro"]}"#, "fs=other"),
            (r#"{"grants":["scratch=1001"]}"#, "scratch=1001"),
            (r#"{"grants":["jobs=5"]}"#, "jobs=5"),
            (r#"{"grants":["net=example.com:80"]}"#, "net=example.com:80"),
            (r#"{"grants":["clock=real"]}"#, "clock=real"),
            (r#"{"secrets":["other"]}"#, "other"),
            (r#"{"id":"x"}"#, "`id`"),
            (r#"{"colour":1}"#, "colour"),
            ("[", "not a job spec"),
        ] {
            let error = child(&parent(), 0, spec).unwrap_err();
            assert!(error.contains(named), "{spec}: {error}");
        }
    }
}
