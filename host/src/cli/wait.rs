//! Waits until jobs have ended, whatever happens to the connection meanwhile.

use std::{collections::HashMap, time::Duration};

use async_nats::Subscriber;
use futures_util::StreamExt;
use indicatif::ProgressBar;
use tokio::time::{MissedTickBehavior, interval};

use super::{CliError, render};
use crate::{
    queue::{Broker, QueueError, names},
    wire::{JobId, Report, State},
};

/// How often the events of jobs are read that are waited for: what was said while the connection
/// was down is not said again.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Jobs that are looked at each time.
const LOOK_AT: usize = 32;

/// Listens for the end of jobs. To be started before they are submitted.
pub(crate) struct Waiter {
    seen: Subscriber,
    ids: Vec<JobId>,
    ended: HashMap<JobId, Report>,
    /// They may have ended before anybody listened.
    may_have_ended: bool,
}

impl Waiter {
    /// Listens for these jobs.
    pub(crate) async fn start(broker: &Broker, ids: Vec<JobId>) -> Result<Self, CliError> {
        let subject = match ids.as_slice() {
            [id] => names::seen(*id),
            _ => names::SEEN_ALL.to_owned(),
        };
        let seen = broker.client.subscribe(subject).await.map_err(CliError::platform)?;
        // The server has to know before the first job is published.
        broker.client.flush().await.map_err(CliError::platform)?;
        Ok(Waiter { seen, ended: HashMap::with_capacity(ids.len()), ids, may_have_ended: false })
    }

    /// Looks at once: the jobs were submitted before.
    pub(crate) fn looking_first(self) -> Self {
        Waiter { may_have_ended: true, ..self }
    }

    /// The last reports of the jobs, in the order they were given.
    pub(crate) async fn wait(mut self, broker: &Broker, bar: &ProgressBar) -> Result<Vec<Report>, CliError> {
        let wanted: std::collections::HashSet<JobId> = self.ids.iter().copied().collect();
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        if !self.may_have_ended {
            look.reset();
        }
        while self.ended.len() < wanted.len() {
            tokio::select! {
                event = self.seen.next() => match event {
                    Some(event) => if let Ok(report) = Report::parse(&event.payload) {
                        self.note(report, &wanted, bar);
                    },
                    None => return Err(CliError::platform("the connection to NATS was closed")),
                },
                _ = look.tick() => {
                    let found = self.look(broker).await;
                    let all_ended = found.len() == LOOK_AT && found.iter().all(|report| report.state.is_terminal());
                    found.into_iter().for_each(|report| self.note(report, &wanted, bar));
                    // More may have ended of which nothing was heard.
                    if all_ended {
                        look.reset_immediately();
                    }
                }
            }
        }
        Ok(self.ids.iter().filter_map(|id| self.ended.remove(id)).collect())
    }

    fn note(&mut self, report: Report, wanted: &std::collections::HashSet<JobId>, bar: &ProgressBar) {
        if !wanted.contains(&report.job) {
            return;
        }
        if report.state.is_terminal() {
            self.ended.insert(report.job, report);
        } else if wanted.len() == 1 {
            bar.set_message(render::plain(&describe(&report)));
        }
        if wanted.len() > 1 {
            bar.set_message(format!("{} of {} jobs ended", self.ended.len(), wanted.len()));
        }
    }

    async fn look(&self, broker: &Broker) -> Vec<Report> {
        let open = self.ids.iter().filter(|id| !self.ended.contains_key(id)).take(LOOK_AT);
        let mut found = Vec::new();
        for id in open {
            match broker.event(*id).await {
                Ok(Some(stored)) => found.push(stored.report),
                Ok(None) => {}
                // The connection is being made anew; the next look will tell.
                Err(QueueError::Unavailable { .. }) => break,
                Err(error) => tracing::debug!(%error, "an event could not be read"),
            }
        }
        found
    }
}

fn describe(report: &Report) -> String {
    let node = report.node.as_deref().unwrap_or("-");
    match (&report.progress, report.state) {
        (Some(progress), _) => {
            let total = progress.total.map_or(String::new(), |total| format!(" of {total}"));
            format!("running on {node}: {}{total} {}", progress.done, progress.message)
        }
        (None, State::Running) => format!("running on {node}"),
        (None, state) => state.name().to_owned(),
    }
}
