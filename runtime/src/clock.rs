//! What time a guest sees: coarse unless it was granted more, and virtual when its job is deterministic.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use wasmtime::component::Resource;
use wasmtime_wasi::{
    HostMonotonicClock, HostWallClock,
    clocks::WallClock,
    p2::{
        DynPollable, Pollable,
        bindings::clocks::monotonic_clock::{self, Duration as Nanos, Instant as At},
        subscribe,
    },
};

use crate::store::State;

/// Nanoseconds that a coarse clock shows at once. A millisecond hides what caches and branch predictors
/// do, which takes less than one.
const COARSE_NS: u64 = 1_000_000;
/// What a virtual clock advances by each time it is read: a program that waits by looking at the clock
/// gets to its end.
const READ_NS: u64 = 1_000;
/// When virtual time begins: 2020-01-01T00:00:00Z. Certificates and calendars make sense of it.
const VIRTUAL_EPOCH: Duration = Duration::from_secs(1_577_836_800);

/// The machine's time, rounded down to a millisecond.
pub(crate) struct Coarse {
    started: Instant,
}

impl Coarse {
    pub(crate) fn new() -> Self {
        Coarse { started: Instant::now() }
    }
}

impl HostMonotonicClock for Coarse {
    fn resolution(&self) -> u64 {
        COARSE_NS
    }

    fn now(&self) -> u64 {
        let ns = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        ns - ns % COARSE_NS
    }
}

impl HostWallClock for Coarse {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(COARSE_NS)
    }

    fn now(&self) -> Duration {
        let now = HostWallClock::now(&WallClock);
        Duration::new(now.as_secs(), now.subsec_millis() * 1_000_000)
    }
}

/// Time that passes only when a guest looks at it or waits: the same in every run.
#[derive(Clone, Default)]
pub(crate) struct Virtual(Arc<VirtualTime>);

#[derive(Default)]
struct VirtualTime {
    ns: AtomicU64,
    /// Until when the timers wait that are being polled together.
    waiting: Mutex<Vec<u64>>,
}

impl Virtual {
    fn read(&self) -> u64 {
        self.0.ns.fetch_add(READ_NS, Ordering::Relaxed).saturating_add(READ_NS)
    }

    fn advance_to(&self, ns: u64) {
        self.0.ns.fetch_max(ns, Ordering::Relaxed);
    }

    fn is_past(&self, ns: u64) -> bool {
        self.0.ns.load(Ordering::Relaxed) >= ns
    }
}

impl HostMonotonicClock for Virtual {
    fn resolution(&self) -> u64 {
        READ_NS
    }

    fn now(&self) -> u64 {
        self.read()
    }
}

impl HostWallClock for Virtual {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(READ_NS)
    }

    fn now(&self) -> Duration {
        VIRTUAL_EPOCH + Duration::from_nanos(self.read())
    }
}

/// A timer in virtual time.
struct Timer {
    clock: Virtual,
    until: u64,
}

#[wasmtime_wasi::async_trait]
impl Pollable for Timer {
    /// In the first round of a poll a timer only says until when it waits, so that whatever else is
    /// polled with it can be ready before any time has passed. If nothing is, the earliest of them
    /// moves the clock.
    async fn ready(&mut self) {
        if self.clock.is_past(self.until) {
            return;
        }
        let waits = Waits::new(&self.clock, self.until);
        let mut asked = false;
        std::future::poll_fn(|context| {
            if asked && waits.is_first() {
                self.clock.advance_to(self.until);
            }
            if self.clock.is_past(self.until) {
                return Poll::Ready(());
            }
            asked = true;
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
}

/// A place among the timers that are polled together, given up when the poll is over.
struct Waits<'a>(&'a Virtual, u64);

impl<'a> Waits<'a> {
    fn new(clock: &'a Virtual, until: u64) -> Self {
        clock.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(until);
        Waits(clock, until)
    }

    fn is_first(&self) -> bool {
        let waiting = self.0.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.iter().all(|other| self.1 <= *other)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let mut waiting = self.0.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = waiting.iter().position(|until| *until == self.1) {
            waiting.swap_remove(place);
        }
    }
}

/// `wasi:clocks/monotonic-clock` of a guest. WASI's own has timers that wait for real, whatever clock
/// it is given.
pub(crate) struct Clocks<'a>(&'a mut State);

impl<'a> Clocks<'a> {
    pub(crate) fn of(state: &'a mut State) -> Self {
        Clocks(state)
    }

    /// WASI's own, which counts the call.
    fn own(&mut self) -> wasmtime_wasi::clocks::WasiClocksCtxView<'_> {
        wasmtime_wasi::clocks::WasiClocksView::clocks(self.0)
    }

    fn timer(&mut self, clock: Virtual, until: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.0.called();
        let timer = self.0.table.push(Timer { clock, until })?;
        subscribe(&mut self.0.table, timer)
    }
}

impl monotonic_clock::Host for Clocks<'_> {
    fn now(&mut self) -> wasmtime::Result<At> {
        monotonic_clock::Host::now(&mut self.own())
    }

    fn resolution(&mut self) -> wasmtime::Result<Nanos> {
        monotonic_clock::Host::resolution(&mut self.own())
    }

    fn subscribe_instant(&mut self, when: At) -> wasmtime::Result<Resource<DynPollable>> {
        match self.0.virtual_clock.clone() {
            Some(clock) => self.timer(clock, when),
            None => monotonic_clock::Host::subscribe_instant(&mut self.own(), when),
        }
    }

    fn subscribe_duration(&mut self, when: Nanos) -> wasmtime::Result<Resource<DynPollable>> {
        match self.0.virtual_clock.clone() {
            Some(clock) => {
                let until = clock.read().saturating_add(when);
                self.timer(clock, until)
            }
            None => monotonic_clock::Host::subscribe_duration(&mut self.own(), when),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn timer(clock: &Virtual, until: u64) -> Timer {
        Timer { clock: clock.clone(), until }
    }

    #[tokio::test]
    async fn of_timers_that_wait_together_the_earliest_moves_the_clock() {
        let clock = Virtual::default();
        let (mut late, mut early) = (timer(&clock, 5_000_000), timer(&clock, 2_000_000));
        tokio::select! {
            biased;
            () = late.ready() => panic!("the later timer came first"),
            () = early.ready() => {}
        }
        assert!(clock.is_past(2_000_000) && !clock.is_past(2_100_000));
        late.ready().await;
        assert!(clock.is_past(5_000_000));
    }

    #[tokio::test]
    async fn what_is_ready_at_once_comes_before_any_time_passes() {
        let clock = Virtual::default();
        let mut timer = timer(&clock, 5_000_000);
        tokio::select! {
            biased;
            () = timer.ready() => panic!("time passed"),
            () = std::future::ready(()) => {}
        }
        assert!(!clock.is_past(1));
    }

    #[test]
    fn coarse_clocks_show_whole_milliseconds() {
        let clock = Coarse::new();
        std::thread::yield_now();
        assert_eq!(HostMonotonicClock::now(&clock) % COARSE_NS, 0);
        assert_eq!(HostWallClock::now(&clock).subsec_nanos() % 1_000_000, 0);
    }
}
