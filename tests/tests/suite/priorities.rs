//! Which of the jobs that wait is next.

use serde_json::Value;
use wasmjob_tests::{Cluster, Machine, guest};

/// The jobs in the order in which they started.
fn by_start(cluster: &Cluster, jobs: &[String]) -> Vec<usize> {
    let started = |job: &String| cluster.json(&["get", job])["times"]["started"].as_str().unwrap().to_owned();
    let mut order: Vec<(String, usize)> = jobs.iter().enumerate().map(|(at, job)| (started(job), at)).collect();
    order.sort();
    order.into_iter().map(|(_, at)| at).collect()
}

/// A node with one slot that is taken until the job it gives is cancelled.
fn busy() -> (Cluster, String) {
    let cluster = Cluster::up_on(Machine::new(), &["--slots", "1"]);
    let holder = cluster.submit(&[&cluster.guest(&guest::sleeps_ms(60_000))]);
    cluster.until_state(&holder, "running");
    (cluster, holder)
}

#[test]
fn jobs_of_a_higher_priority_start_first_and_others_in_the_order_they_came() {
    let (cluster, holder) = busy();
    let component = cluster.guest(&guest::sleeps_ms(20));
    let priorities = ["5", "0", "9", "9", "5", "8"];
    let jobs = priorities.map(|priority| cluster.submit(&["--priority", priority, &component]));
    cluster.wasmjob(&["cancel", &holder]).succeeded();
    for job in &jobs {
        cluster.until_state(job, "succeeded");
    }
    assert_eq!(by_start(&cluster, &jobs), [2, 3, 5, 0, 4, 1]);
}

#[test]
fn a_job_of_low_priority_is_not_kept_waiting_for_ever() {
    let (cluster, holder) = busy();
    let component = cluster.guest(&guest::sleeps_ms(5));
    let low = cluster.submit(&["--priority", "0", &component]);
    let high =
        cluster.wasmjob(&["submit", "--json", "--repeat", "60", "--priority", "9", &component]).succeeded().json();
    let mut jobs: Vec<String> =
        high.as_array().unwrap().iter().map(|job: &Value| job["job"].as_str().unwrap().to_owned()).collect();
    jobs.push(low.clone());
    cluster.wasmjob(&["cancel", &holder]).succeeded();
    for job in &jobs {
        cluster.until_state(job, "succeeded");
    }
    // Three lanes: every lane has its turn within 30 jobs.
    let place = by_start(&cluster, &jobs).iter().position(|at| jobs[*at] == low).unwrap();
    assert!(place <= 30, "it was number {place}");
}
