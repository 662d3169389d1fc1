use jiff::SignedDuration;

use super::*;
use crate::wire::new_job_id;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// The times of a pattern in Berlin after a moment, as its clocks show them.
fn berlin(pattern: &str, after: &str, count: usize) -> Vec<String> {
    let calendar = Calendar::cron(pattern, "Europe/Berlin").unwrap();
    let mut moment = at(after);
    let next = std::iter::repeat_with(|| {
        moment = calendar.after(moment).unwrap().unwrap();
        moment.to_zoned(zone("Europe/Berlin").unwrap()).strftime("%d %H:%M %:z").to_string()
    });
    next.take(count).collect()
}

fn schedule(when: When) -> Schedule {
    Schedule {
        v: 1,
        name: "nightly".into(),
        when,
        overlap: Overlap::Skip,
        missed: Missed::Last,
        jitter_ms: 0,
        paused: false,
        since: at("2026-01-01T00:00:00Z"),
        job: JobSpec::new(new_job_id(), "x"),
    }
}

fn hourly() -> Schedule {
    schedule(When::Cron { pattern: "0 * * * *".into(), tz: "UTC".into() })
}

#[test]
fn a_time_of_day_that_does_not_exist_is_the_first_moment_that_does() {
    // On 29 March 2026 clocks go from 2:00 to 3:00.
    assert_eq!(
        berlin("30 2 * * *", "2026-03-27T12:00:00Z", 3),
        ["28 02:30 +01:00", "29 03:00 +02:00", "30 02:30 +02:00"]
    );
    assert_eq!(berlin("0 3 * * *", "2026-03-28T12:00:00Z", 2), ["29 03:00 +02:00", "30 03:00 +02:00"]);
}

#[test]
fn what_recurs_within_the_hours_leaves_out_times_that_do_not_exist() {
    assert_eq!(
        berlin("*/30 * * * *", "2026-03-29T00:30:00Z", 3),
        ["29 03:00 +02:00", "29 03:30 +02:00", "29 04:00 +02:00"]
    );
    assert_eq!(berlin("30 2,14 * * *", "2026-03-28T14:00:00Z", 2), ["29 14:30 +02:00", "30 02:30 +02:00"]);
}

#[test]
fn a_time_of_day_that_comes_twice_is_the_first_of_the_two() {
    // On 25 October 2026 clocks go from 3:00 back to 2:00.
    assert_eq!(berlin("30 2 * * *", "2026-10-24T12:00:00Z", 2), ["25 02:30 +02:00", "26 02:30 +01:00"]);
}

#[test]
fn what_recurs_within_the_hours_goes_on_through_both() {
    assert_eq!(
        berlin("*/30 * * * *", "2026-10-24T23:45:00Z", 6),
        [
            "25 02:00 +02:00",
            "25 02:30 +02:00",
            "25 02:00 +01:00",
            "25 02:30 +01:00",
            "25 03:00 +01:00",
            "25 03:30 +01:00"
        ]
    );
}

#[test]
fn days_that_are_rare_are_found_and_days_that_never_come_refused() {
    assert_eq!(berlin("0 0 29 2 *", "2026-01-01T00:00:00Z", 1), ["29 00:00 +01:00"]);
    for (pattern, named) in [
        ("0 0 30 2 *", "never comes"),
        ("61 * * * *", "`61 * * * *` is no cron pattern: a number is out of range: minute 0-59"),
        ("* * * *", "it has 4 fields, and 5 or 6 are wanted"),
        ("soon", "it has one field"),
        ("", "it is empty"),
    ] {
        let error = Calendar::cron(pattern, "UTC").unwrap_err().to_string();
        assert!(error.contains(named), "{pattern}: {error}");
    }
    assert!(Calendar::cron("0 0 * * *", "Europe/Berlln").unwrap_err().to_string().contains("Europe/Berlln"));
    assert!(Calendar::every(Duration::from_millis(10), at("2026-01-01T00:00:00Z")).is_err());
}

#[test]
fn intervals_are_counted_from_where_they_began() {
    let since = at("2026-01-01T00:00:00Z");
    let calendar = Calendar::every(Duration::from_secs(900), since).unwrap();
    assert_eq!(calendar.after(since).unwrap(), Some(at("2026-01-01T00:15:00Z")));
    assert_eq!(calendar.after(at("2026-01-01T00:15:00Z")).unwrap(), Some(at("2026-01-01T00:30:00Z")));
    assert_eq!(calendar.after(at("2025-06-01T00:00:00Z")).unwrap(), Some(at("2026-01-01T00:15:00Z")));
    let (last, passed) = calendar.last_until(at("2026-01-01T00:15:00Z"), at("2026-01-01T01:20:00Z")).unwrap();
    assert_eq!((last, passed), (at("2026-01-01T01:15:00Z"), 4));
}

fn past(due: Timestamp, lag_ms: u64, job: Option<JobId>) -> Ticked {
    Ticked { due, lag_ms, job, skipped: None, missed: 0 }
}

#[test]
fn a_tick_in_time_runs_its_job_and_the_next_one_waits() {
    let due = at("2026-05-05T10:00:00Z");
    for now in [due, at("2026-05-05T10:00:30Z"), at("2026-05-05T09:57:00Z")] {
        let decision = hourly().on_tick(due, now, &History::default(), Some(State::Succeeded)).unwrap();
        assert_eq!(decision, Decision { tick: due, action: Action::Run, missed: 0, back: None });
        assert_eq!(hourly().next(Some(&past(due, 0, None))), Some(at("2026-05-05T11:00:00Z")));
    }
}

#[test]
fn after_an_outage_ticks_are_left_out_or_made_up_for_as_was_asked() {
    let (due, now) = (at("2026-05-05T10:00:00Z"), at("2026-05-05T13:30:00Z"));
    let decide = |missed, due| Schedule { missed, ..hourly() }.on_tick(due, now, &History::default(), None).unwrap();
    let skip = decide(Missed::Skip, due);
    assert!(matches!(skip.action, Action::Skip(_)));
    assert_eq!((skip.tick, skip.missed), (at("2026-05-05T13:00:00Z"), 3));
    let last = decide(Missed::Last, due);
    assert_eq!((last.tick, last.action, last.missed), (at("2026-05-05T13:00:00Z"), Action::Run, 3));
    let all = decide(Missed::All, due);
    assert_eq!((all.tick, all.action, all.missed), (due, Action::Run, 0));
}

/// Handles ticks of jobs that take so long, one after the other, as `ticks` does it: from `start`, when somebody is
/// there again, for a while. Says when each tick ran.
fn handle_all(schedule: &Schedule, start: &str, job_takes: SignedDuration, until: &str) -> Vec<(Timestamp, Timestamp)> {
    let (mut now, until, mut history, mut ran) = (at(start), at(until), History::default(), Vec::new());
    let mut ends = None;
    while now < until {
        let due = schedule.next(history.ticks.last()).unwrap();
        now = now.max(due);
        let last = ends.map(|ends| if ends > now { State::Running } else { State::Succeeded });
        let Decision { tick, action, missed, back } = schedule.on_tick(due, now, &history, last).unwrap();
        history.back = back;
        let mut job = None;
        match action {
            Action::Wait => {
                now += SignedDuration::from_secs(1);
                continue;
            }
            Action::Skip(_) => {}
            Action::Run | Action::Replace => {
                assert!(action == Action::Replace || ends.is_none_or(|ends| ends <= now), "{tick} overlaps");
                ends = Some(now + job_takes);
                job = Some(schedule.job_at(tick).id);
                ran.push((tick, now));
            }
        }
        let lag_ms = u64::try_from(now.duration_since(tick).as_millis()).unwrap();
        history.add(Ticked { due: tick, lag_ms, job, skipped: None, missed });
    }
    ran
}

#[test]
fn every_tick_of_an_outage_runs_once_and_in_order_however_long_its_job_takes() {
    let (since, back) = (at("2026-05-05T09:59:00Z"), "2026-05-05T13:30:30Z");
    let outage = ["10:00", "11:00", "12:00", "13:00"].map(|hour| at(&format!("2026-05-05T{hour}:00Z")));
    for overlap in [Overlap::Skip, Overlap::Queue, Overlap::Replace] {
        let schedule = Schedule { missed: Missed::All, overlap, since, ..hourly() };
        // Longer than an hour: ticks come while those are made up for.
        for minutes in [1, 59, 90] {
            let ran = handle_all(&schedule, back, SignedDuration::from_mins(minutes), "2026-05-06T10:00:00Z");
            let ticks: Vec<_> = ran.iter().map(|(tick, _)| *tick).collect();
            assert_eq!(ticks[..4], outage, "{overlap:?}, {minutes}");
            assert!(ticks.is_sorted(), "{ticks:?}");
            // It has caught up: the last one ran in time, or waited only for the one before it.
            let (tick, at) = ran.last().unwrap();
            let late = at.duration_since(*tick);
            assert!(overlap == Overlap::Queue || late < SignedDuration::from_mins(1), "{overlap:?}, {minutes}: {late}");
        }
    }
    // A second outage is one as well.
    let schedule = Schedule { missed: Missed::All, since, ..hourly() };
    let mut history = History::default();
    history.add(past(outage[0], 100, None));
    history.back = Some(at("2026-05-05T08:00:00Z"));
    let decision = schedule.on_tick(outage[1], at(back), &history, Some(State::Running)).unwrap();
    assert_eq!((decision.action, decision.back), (Action::Wait, Some(at(back))));
}

#[test]
fn a_job_that_has_not_ended_is_waited_for_joined_or_replaced() {
    let due = at("2026-05-05T10:00:00Z");
    let decide = |overlap| {
        let schedule = Schedule { overlap, ..hourly() };
        schedule.on_tick(due, due, &History::default(), Some(State::Running)).unwrap().action
    };
    assert!(matches!(decide(Overlap::Skip), Action::Skip(_)));
    assert_eq!((decide(Overlap::Queue), decide(Overlap::Replace)), (Action::Run, Action::Replace));
}

#[test]
fn a_job_that_outlasts_many_ticks_stays_known() {
    let (mut history, job) = (History::default(), new_job_id());
    let tick = |minute: i64| at("2026-05-05T10:00:00Z") + SignedDuration::from_mins(minute);
    history.add(past(tick(0), 0, Some(job)));
    for minute in 1..100 {
        history.add(past(tick(minute), 0, None));
        assert_eq!(history.last_job(), Some(job), "after {minute} more");
        assert!(history.ticks.len() <= HISTORY_MAX);
    }
    assert_eq!(history.ticks.last().unwrap().due, tick(99));
    let next = new_job_id();
    history.add(past(tick(100), 0, Some(next)));
    history.add(past(tick(101), 0, None));
    assert_eq!((history.last_job(), history.ticks[0].job), (Some(next), None));
}

#[test]
fn what_was_decided_about_a_tick_is_not_decided_again() {
    let mut history = History::default();
    let (first, second) = (at("2026-05-05T10:00:00Z"), at("2026-05-05T11:00:00Z"));
    assert_eq!(history.decided(first), None);
    history.add(past(first, 0, None));
    assert_eq!(history.decided(first).unwrap().due, first);
    assert_eq!(history.decided(second), None);
    // Whoever decided about the first one left it out for the second.
    history.add(past(second, 0, None));
    assert_eq!(history.decided(first).unwrap().due, second);
}

#[test]
fn a_schedule_that_rested_goes_on_after_that() {
    let now = at("2026-05-05T13:07:00Z");
    let rested = past(at("2026-05-05T09:00:00Z"), 0, None);
    let every = schedule(When::EveryMs(900_000)).paused(true, at("2026-05-05T09:05:00Z")).unwrap();
    assert!(every.paused);
    for (schedule, next) in [(every, "2026-05-05T13:15:00Z"), (hourly(), "2026-05-05T14:00:00Z")] {
        let resumed = schedule.paused(false, now).unwrap();
        assert!(!resumed.paused);
        assert_eq!(resumed.next(Some(&rested)), Some(at(next)));
        assert_eq!(resumed.next(None), Some(at(next)));
    }
}

#[test]
fn a_tick_has_the_same_job_whoever_handles_it() {
    let schedule = Schedule { jitter_ms: 600_000, ..hourly() };
    let tick = at("2026-05-05T10:00:00Z");
    let job = schedule.job_at(tick);
    assert_eq!(job, schedule.job_at(tick));
    let start = at(job.at.as_deref().unwrap());
    assert!(start >= tick && start <= at("2026-05-05T10:10:00Z"));
    assert_ne!(job.id, schedule.job_at(at("2026-05-05T11:00:00Z")).id);
    assert_ne!(job.id, Schedule { name: "other".into(), ..schedule }.job_at(tick).id);
}

#[test]
fn a_definition_reads_back_from_its_json() {
    for when in [When::EveryMs(1_000), When::Cron { pattern: "0 3 * * *".into(), tz: "Europe/Berlin".into() }] {
        let schedule = schedule(when);
        let text = serde_json::to_string(&schedule).unwrap();
        assert_eq!(serde_json::from_str::<Schedule>(&text).unwrap(), schedule, "{text}");
    }
}

#[test]
fn jobs_that_are_to_queue_up_run_one_after_the_other() {
    let tick = at("2026-01-01T00:00:00Z");
    let queued = Schedule { overlap: Overlap::Queue, ..hourly() };
    assert_eq!(queued.job_at(tick).concurrency, Some(Concurrency { key: "schedule nightly".into(), max: 1 }));
    // Whoever says how many may run at the same time means it.
    let concurrency = Some(Concurrency { key: "gpu".into(), max: 2 });
    let own = Schedule { job: JobSpec { concurrency: concurrency.clone(), ..queued.job.clone() }, ..queued };
    assert_eq!(own.job_at(tick).concurrency, concurrency);
    assert_eq!(hourly().job_at(tick).concurrency, None);
}

/// Whether a field of a pattern (`*`, `*/5`, `1,3`, `2-4`) has this value.
fn has(field: &str, value: i8) -> bool {
    field.split(',').any(|part| match (part.split_once('/'), part.split_once('-')) {
        (Some((_, step)), _) => value % step.parse::<i8>().unwrap() == 0,
        (None, Some((first, last))) => (first.parse().unwrap()..=last.parse().unwrap()).contains(&value),
        (None, None) => part == "*" || part.parse() == Ok(value),
    })
}

/// The ticks of a pattern in a window, found by looking at every minute of it.
fn by_looking(pattern: &str, zone: &TimeZone, from: Timestamp, until: Timestamp) -> Vec<Timestamp> {
    let fields: Vec<&str> = pattern.split(' ').collect();
    let [minute, hour, day, month, weekday] = fields[..] else { panic!("{pattern}") };
    let minutes = std::iter::successors(Some(from), |time| Some(*time + SignedDuration::from_mins(1)));
    let minutes: Vec<_> = minutes.take_while(|time| *time < until).map(|time| time.to_zoned(zone.clone())).collect();
    let on_day = |date: jiff::civil::Date| {
        has(day, date.day()) && has(month, date.month()) && has(weekday, date.weekday().to_sunday_zero_offset())
    };
    let once_a_day = minute.parse::<i8>().ok().zip(hour.parse::<i8>().ok());
    let Some((minute_of_day, hour_of_day)) = once_a_day else {
        let fits = |time: &&jiff::Zoned| has(minute, time.minute()) && has(hour, time.hour()) && on_day(time.date());
        return minutes.iter().filter(fits).map(jiff::Zoned::timestamp).collect();
    };
    let mut dates: Vec<_> = minutes.iter().map(jiff::Zoned::date).collect();
    dates.dedup();
    // The first moment at which the clock shows that time or, where that does not exist, a later one of the day.
    let first = |date: &jiff::civil::Date| {
        let wanted = date.at(hour_of_day, minute_of_day, 0, 0);
        minutes.iter().find(|time| time.date() == *date && time.datetime() >= wanted).map(jiff::Zoned::timestamp)
    };
    dates.iter().filter(|date| on_day(**date)).filter_map(first).collect()
}

#[test]
fn ticks_around_changes_of_clocks_are_those_that_looking_at_every_minute_finds() {
    let zones = [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "America/St_Johns",
        "Australia/Lord_Howe",
        "America/Santiago",
        "Africa/Cairo",
        "Asia/Kathmandu",
    ];
    let patterns = [
        "30 2 * * *",
        "0 3 * * *",
        "0 0 * * *",
        "15 1 * * *",
        "59 23 * * *",
        "30 0 * * 0",
        "45 1 1-31 * *",
        "*/15 * * * *",
        "30 * * * *",
        "0 */2 * * *",
        "30 1,2,3 * * *",
        "10 0-4 * * *",
        "0 12 * * 1-5",
    ];
    for name in zones {
        let zone = zone(name).unwrap();
        let changes: Vec<_> =
            zone.following(at("2026-01-01T00:00:00Z")).take(2).map(|change| change.timestamp()).collect();
        for change in changes.into_iter().chain([at("2026-06-15T00:00:00Z")]) {
            // Whole days, so that the first and the last are seen from their beginning to their end.
            let day = |days: i64| {
                let date = (change + SignedDuration::from_hours(24 * days)).to_zoned(zone.clone()).date();
                date.to_zoned(zone.clone()).unwrap().timestamp()
            };
            for pattern in patterns {
                let expected = by_looking(pattern, &zone, day(-3), day(4));
                assert!(!expected.is_empty(), "{pattern} in {name} around {change}");
                let calendar = Calendar::cron(pattern, name).unwrap();
                let mut moment = day(-3) - SignedDuration::from_secs(1);
                let ticks: Vec<_> = std::iter::from_fn(|| {
                    moment = calendar.after(moment).unwrap()?;
                    (moment < day(4)).then_some(moment)
                })
                .collect();
                assert_eq!(ticks, expected, "{pattern} in {name} around {change}");
            }
        }
    }
}
