//! One attempt on this node: what has to be there before it starts, and what becomes of its output.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use wasmjob_runtime::{
    AccessError, Artifacts, Attempt, AttemptReport, Blob, Digest, Limit, Limits, Outcome, OutcomeKind, Prepared,
    Signals, Variant, millis,
};

use super::{BACKOFF, INLINE_BYTES_MAX, Worker};
use crate::{
    grants::{ClusterChildren, ClusterNames, GrantError, Services},
    wire::{Input, JobSpec, OutputValue},
};

/// How long a store may not answer before an attempt is given up.
const STORE_PATIENCE: Duration = Duration::from_secs(60);

impl Worker {
    /// One attempt from the spec to the sandbox's report.
    pub(super) async fn attempt(
        &self,
        spec: &Arc<JobSpec>,
        number: u32,
        limits: Limits,
        signals: Arc<Signals>,
        release: (OwnedSemaphorePermit, oneshot::Sender<()>),
    ) -> AttemptReport {
        let begun = Instant::now();
        let prepared = tokio::select! {
            prepared = self.prepare(spec, limits.input) => prepared,
            () = signals.cancelled() => Err(Box::new(Outcome::cancelled())),
        };
        let (component, input, compiled) = match prepared {
            Ok(prepared) => prepared,
            Err(outcome) => {
                let mut report = AttemptReport::unstarted(*outcome);
                report.usage.wall_ms = millis(begun.elapsed());
                if report.outcome.limit == Some(Limit::Compile) {
                    report.usage.compile_ms = report.usage.wall_ms;
                }
                return report;
            }
        };
        let grants = match self.offers.resolve(spec, self.services(spec, number)).await {
            Ok(grants) => grants,
            Err(error) => return AttemptReport::unstarted(refused(&error)),
        };
        let attempt = Attempt {
            component,
            job: spec.id.to_string(),
            number,
            input,
            args: spec.args.clone(),
            env: spec.env.clone().into_iter().collect(),
            soft: spec.soft(limits.wall_ms),
            limits,
            grants,
            deterministic: spec.deterministic.map(|deterministic| deterministic.seed),
            artifacts: self.artifacts.clone(),
            log: self.logs.of_attempt(spec.id, number),
            signals,
        };
        if self.skip_guests {
            return AttemptReport::unstarted(Outcome::ok());
        }
        let mut report = self.sandbox.start(attempt, release).report().await;
        report.usage.compile_ms = millis(compiled);
        report
    }

    fn services(&self, spec: &Arc<JobSpec>, attempt: u32) -> Services {
        Services {
            names: Arc::new(ClusterNames::new(self.broker.clone())),
            children: Arc::new(ClusterChildren::new(self.broker.clone(), spec.clone(), attempt)),
        }
    }

    /// The component and the input, ready to use.
    async fn prepare(&self, spec: &JobSpec, input_max: u64) -> Result<(Arc<Prepared>, Blob, Duration), Box<Outcome>> {
        let digest = self.resolve(&spec.component).await?;
        let bytes = self.fetch("component", digest, self.sandbox.component_bytes_max(), Limit::Compile);
        let (component, compiled) =
            self.sandbox.prepare(digest, Variant::of(spec.deterministic.is_some()), bytes).await?;
        let input = match &spec.input {
            Input::Artifact(digest) => Box::pin(self.fetch("input", *digest, input_max, Limit::Input)).await?,
            carried => {
                let bytes = carried.bytes().map_err(|error| Box::new(Outcome::invalid(error.to_string())))?;
                Blob::from_bytes(bytes.unwrap_or_default())
            }
        };
        Ok((component, input, compiled))
    }

    /// The digest of a component that is named by digest or by name.
    async fn resolve(&self, component: &str) -> Result<Digest, Box<Outcome>> {
        if let Ok(digest) = component.parse() {
            return Ok(digest);
        }
        match crate::names::resolve(&self.broker, component).await {
            Ok(Some(digest)) => Ok(digest),
            Ok(None) => Err(Box::new(Outcome::invalid(format!("nothing was pushed under the name `{component}`")))),
            Err(error) => Err(Box::new(Outcome::ended(OutcomeKind::Error, error.to_string(), true))),
        }
    }

    async fn fetch(&self, what: &str, digest: Digest, bytes_max: u64, limit: Limit) -> Result<Blob, Box<Outcome>> {
        self.patiently(|| self.artifacts.open_within(&digest, bytes_max)).await.map_err(|error| {
            Box::new(match error {
                AccessError::TooLarge(text) => {
                    Outcome { retryable: false, ..Outcome::limited(limit, format!("has too large a {what}: {text}")) }
                }
                AccessError::NotFound(text) | AccessError::Corrupt(text) => {
                    Outcome::invalid(format!("the {what} cannot be had: {text}"))
                }
                AccessError::Unavailable(text) | AccessError::Refused(text) => {
                    Outcome::ended(OutcomeKind::Error, format!("the {what} cannot be had: {text}"), true)
                }
            })
        })
    }

    /// The output as a report carries it. Large ones are stored first; if that fails, the attempt
    /// has failed.
    pub(super) async fn keep_output(&self, mut ended: AttemptReport) -> (AttemptReport, Option<OutputValue>) {
        let Some(blob) = ended.output.take() else { return (ended, None) };
        match self.output_value(&blob).await {
            Ok(output) => (ended, Some(output)),
            Err(reason) => {
                let message = format!("the output of {} bytes could not be stored: {reason}", blob.size());
                ended.outcome = Outcome::ended(OutcomeKind::Error, message, true);
                (ended, None)
            }
        }
    }

    async fn output_value(&self, blob: &Blob) -> Result<OutputValue, String> {
        if blob.size() <= INLINE_BYTES_MAX {
            let bytes = blob.to_bytes(INLINE_BYTES_MAX).map_err(|error| error.to_string())?;
            return Ok(OutputValue::inline(&bytes));
        }
        Box::pin(self.patiently(|| self.artifacts.publish(blob))).await.map_err(|error| error.to_string())?;
        Ok(OutputValue::Artifact(blob.digest()))
    }

    /// Asks again while a store does not answer: work that was done is not lost because a server was
    /// started anew.
    async fn patiently<T, F>(&self, ask: impl Fn() -> F) -> Result<T, AccessError>
    where
        F: Future<Output = Result<T, AccessError>>,
    {
        let deadline = Instant::now() + STORE_PATIENCE;
        let mut wait = BACKOFF.0;
        loop {
            match ask().await {
                Err(AccessError::Unavailable(reason)) if Instant::now() < deadline && !self.stopping.is_cancelled() => {
                    tracing::warn!(reason, "the artifacts do not answer; trying again");
                    self.pause(wait).await;
                    wait = (wait * 2).min(BACKOFF.1);
                }
                answer => return answer,
            }
        }
    }
}

fn refused(error: &GrantError) -> Outcome {
    match error.is_transient() {
        true => Outcome::ended(OutcomeKind::Error, error.to_string(), true),
        false => Outcome::invalid(error.to_string()),
    }
}
