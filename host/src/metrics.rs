//! What a node counts, in a registry of its own: two nodes in one process (as in tests) do not mix.
//! Names and meanings are listed in one place, [`Metrics::new`]; times are in seconds, as Prometheus has it.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Bounds of attempt times: from a no-op's fraction of a millisecond to the two hours of the default limit.
const ATTEMPT_SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0,
];

/// Bounds of waiting times: from "a slot was free" to a night's backlog.
const QUEUE_SECONDS: &[f64] =
    &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 3600.0, 14400.0, 43200.0];

/// Everything a node counts. Clones count into the same numbers.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    jobs_finished: IntCounterVec,
    attempts_running: IntGaugeVec,
    attempt_seconds: HistogramVec,
    queue_seconds: HistogramVec,
    dead_lettered: IntCounterVec,
    /// Attempts this node may run at the same time.
    pub slots: IntGauge,
    slots_used: IntGauge,
    /// Memory it may promise, in bytes.
    pub memory_budget_bytes: IntGauge,
    /// Memory it has promised to running attempts, in bytes.
    pub memory_promised_bytes: IntGauge,
    /// The cache of compiled components.
    pub compile_cache: CacheMetrics,
    /// The cache of artifacts.
    pub artifact_cache: CacheMetrics,
    /// Leases renewed for running attempts.
    pub lease_renewals: IntCounter,
    /// Deliveries of a message that had been delivered before.
    pub redeliveries: IntCounter,
    /// Deliveries given back because no slot or memory was free.
    pub handed_back: IntCounter,
    /// Bytes of job logs that were over a job's allowance.
    pub log_bytes_dropped: IntCounter,
    /// What advisories and hand-overs missed and was put right, by kind.
    pub reconciled: IntCounterVec,
    /// 1 while NATS is connected.
    pub nats_connected: IntGauge,
    /// Connections to NATS that were lost and made again.
    pub nats_reconnects: IntCounter,
}

/// Three numbers about one cache.
#[derive(Debug, Clone)]
pub struct CacheMetrics {
    /// Found.
    pub hits: IntCounter,
    /// Not found, and made or fetched.
    pub misses: IntCounter,
    /// Bytes it takes on disk.
    pub bytes: IntGauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// A slot that has a job.
#[derive(Debug)]
pub struct UsedSlot(IntGauge);

impl Drop for UsedSlot {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// A fresh set, all zero.
    #[must_use]
    pub fn new() -> Self {
        let r = Registry::new();
        let build = gauge_vec(&r, "build_info", "Version of this node; always 1.", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Metrics {
            jobs_finished: counter_vec(
                &r,
                "jobs_finished_total",
                "Jobs that ended here, by final state.",
                &["queue", "state"],
            ),
            attempts_running: gauge_vec(&r, "attempts_running", "Attempts running now.", &["queue"]),
            attempt_seconds: histogram(
                &r,
                "attempt_seconds",
                "Time from start to end of an attempt.",
                &["queue", "outcome"],
                ATTEMPT_SECONDS,
            ),
            queue_seconds: histogram(
                &r,
                "queue_seconds",
                "Time from submission to start of the first attempt.",
                &["queue"],
                QUEUE_SECONDS,
            ),
            dead_lettered: counter_vec(
                &r,
                "dead_lettered_total",
                "Jobs and messages put aside for a person to look at.",
                &["queue"],
            ),
            slots: gauge(&r, "slots", "Attempts this node may run at the same time."),
            slots_used: gauge(&r, "slots_used", "Attempts this node runs now."),
            memory_budget_bytes: gauge(&r, "memory_budget_bytes", "Memory this node may promise to attempts."),
            memory_promised_bytes: gauge(&r, "memory_promised_bytes", "Memory promised to running attempts."),
            compile_cache: CacheMetrics::new(&r, "compile_cache", "compiled components"),
            artifact_cache: CacheMetrics::new(&r, "artifact_cache", "artifacts"),
            lease_renewals: counter(&r, "lease_renewals_total", "Leases renewed for running attempts."),
            redeliveries: counter(&r, "redeliveries_total", "Deliveries of a message that had been delivered before."),
            handed_back: counter(&r, "handed_back_total", "Deliveries given back because no slot or memory was free."),
            log_bytes_dropped: counter(&r, "log_bytes_dropped_total", "Bytes of job logs over a job's allowance."),
            reconciled: counter_vec(
                &r,
                "reconciled_total",
                "What was found amiss by looking, and put right.",
                &["kind"],
            ),
            nats_connected: gauge(&r, "nats_connected", "1 while NATS is connected."),
            nats_reconnects: counter(&r, "nats_reconnects_total", "Connections to NATS that were lost and made again."),
            registry: r,
        }
    }

    /// A slot has a job until what this gives is dropped.
    pub fn use_slot(&self) -> UsedSlot {
        self.slots_used.inc();
        UsedSlot(self.slots_used.clone())
    }

    /// An attempt begins after its job waited this long.
    pub fn attempt_started(&self, queue: &str, waited: Option<Duration>) {
        self.attempts_running.with_label_values(&[queue]).inc();
        if let Some(waited) = waited {
            self.queue_seconds.with_label_values(&[queue]).observe(waited.as_secs_f64());
        }
    }

    /// An attempt ended; `outcome` is the kind in its report (`ok`, `trap`, ...).
    pub fn attempt_ended(&self, queue: &str, outcome: &str, took: Duration) {
        self.attempts_running.with_label_values(&[queue]).dec();
        self.attempt_seconds.with_label_values(&[queue, outcome]).observe(took.as_secs_f64());
    }

    /// A job reached its final state (`succeeded`, `failed`, `dead`, `cancelled`).
    pub fn job_finished(&self, queue: &str, state: &str) {
        self.jobs_finished.with_label_values(&[queue, state]).inc();
    }

    /// A job or a malformed message was put aside.
    pub fn dead_lettered(&self, queue: &str) {
        self.dead_lettered.with_label_values(&[queue]).inc();
    }

    /// Everything in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        let encoded = TextEncoder::new().encode_to_string(&self.registry.gather());
        encoded.unwrap_or_else(|error| format!("# cannot be shown: {error}\n"))
    }
}

impl CacheMetrics {
    fn new(registry: &Registry, name: &str, what: &str) -> Self {
        let named = |part: &str| format!("{name}_{part}");
        CacheMetrics {
            hits: counter(registry, &named("hits_total"), &format!("Uses of {what} found in the cache.")),
            misses: counter(registry, &named("misses_total"), &format!("Uses of {what} not in the cache.")),
            bytes: gauge(registry, &named("bytes"), &format!("Bytes of {what} kept on disk.")),
        }
    }
}

fn options(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("wasmjob")
}

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    registered(registry, IntCounter::with_opts(options(name, help)))
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    registered(registry, IntGauge::with_opts(options(name, help)))
}

fn counter_vec(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    registered(registry, IntCounterVec::new(options(name, help), labels))
}

fn gauge_vec(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    registered(registry, IntGaugeVec::new(options(name, help), labels))
}

fn histogram(registry: &Registry, name: &str, help: &str, labels: &[&str], bounds: &[f64]) -> HistogramVec {
    let options = HistogramOpts::from(options(name, help)).buckets(bounds.to_vec());
    registered(registry, HistogramVec::new(options, labels))
}

fn registered<M: Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<M>) -> M {
    let metric = made.expect("names, labels and bounds are constants that are valid");
    registry.register(Box::new(metric.clone())).expect("every name is used once");
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_is_counted() {
        let metrics = Metrics::new();
        metrics.attempt_started("default", Some(Duration::from_millis(3)));
        metrics.attempt_ended("default", "ok", Duration::from_millis(20));
        metrics.job_finished("default", "succeeded");
        metrics.compile_cache.hits.inc();
        metrics.slots.set(4);
        let text = metrics.render();
        for line in [
            "wasmjob_jobs_finished_total{queue=\"default\",state=\"succeeded\"} 1",
            "wasmjob_attempts_running{queue=\"default\"} 0",
            "wasmjob_attempt_seconds_count{outcome=\"ok\",queue=\"default\"} 1",
            "wasmjob_queue_seconds_bucket{queue=\"default\",le=\"0.005\"} 1",
            "wasmjob_compile_cache_hits_total 1",
            "wasmjob_slots 4",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn two_sets_do_not_mix() {
        let (a, b) = (Metrics::new(), Metrics::new());
        a.handed_back.inc();
        assert_eq!((a.handed_back.get(), b.handed_back.get()), (1, 0));
    }
}
