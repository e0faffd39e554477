//! [`Clock`]: the time by which a holder believes in its lease.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The clock by which a holder believes in its lease: it never steps, and counts while the machine
/// is suspended.
///
/// It is tokio's clock, so that tests can pause and advance it, plus the time that this machine has
/// spent suspended (`CLOCK_BOOTTIME` minus `CLOCK_MONOTONIC`, on Linux; elsewhere suspended time
/// counts only where the system's monotonic clock counts it). A lease that expired while a laptop
/// slept is lost when the laptop wakes.
///
/// The clock also has the **margin**: the time by which a holder stops believing in a lease before
/// the store stops keeping it. The default is 1 % of the TTL plus 2 ms, which the specification of
/// Redlock proposes for clocks that drift apart.
#[derive(Clone)]
pub struct Clock {
    suspended: Suspended,
    margin: Option<Duration>,
}

#[derive(Clone)]
enum Suspended {
    Machine,
    Test(Arc<AtomicU64>),
}

/// A moment of a [`Clock`]. All clocks of one process count from the same origin.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

/// Suspends the machine of a [`Clock::for_tests`]; for tests.
#[derive(Clone, Debug)]
pub struct Suspender(Arc<AtomicU64>);

impl Suspender {
    /// Suspends the machine for this long: time passes, and timers do not run.
    pub fn suspend(&self, time: Duration) {
        self.0.fetch_add(nanos(time), Ordering::SeqCst);
    }
}

/// Longest sleep between two readings of the clock. Timers stop during a suspend, so a longer sleep
/// would notice the suspended time too late.
const SUSPEND_CHECK_INTERVAL: Duration = Duration::from_secs(1);

impl Clock {
    /// This machine's clock, with the margin of 1 % of the TTL plus 2 ms.
    pub fn system() -> Clock {
        Clock { suspended: Suspended::Machine, margin: None }
    }

    /// A clock whose suspended time is set by a test. Otherwise it is tokio's clock, which can be
    /// paused.
    pub fn for_tests() -> (Clock, Suspender) {
        let suspended = Arc::new(AtomicU64::new(0));
        (Clock { suspended: Suspended::Test(suspended.clone()), margin: None }, Suspender(suspended))
    }

    /// This clock with a margin that is the same for every TTL.
    #[must_use]
    pub fn with_margin(mut self, margin: Duration) -> Clock {
        self.margin = Some(margin);
        self
    }

    /// The present moment.
    pub fn now(&self) -> Moment {
        let suspended = match &self.suspended {
            Suspended::Machine => suspended_by_machine(),
            Suspended::Test(nanos) => nanos.load(Ordering::SeqCst),
        };
        let awake = tokio::time::Instant::now().into_std().saturating_duration_since(anchor());
        Moment(nanos(awake).saturating_add(suspended))
    }

    /// The margin for this TTL: how much earlier than the store the holder stops believing in the
    /// lease.
    pub fn margin(&self, ttl: Duration) -> Duration {
        self.margin.unwrap_or(ttl / 100 + Duration::from_millis(2))
    }

    /// End of the validity of a lease with this TTL whose request was sent at `sent`.
    pub fn valid_until(&self, sent: Moment, ttl: Duration) -> Moment {
        sent.after(ttl.saturating_sub(self.margin(ttl)))
    }

    /// Time left until `moment`; zero if it has passed.
    pub fn until(&self, moment: Moment) -> Duration {
        moment.since(self.now())
    }

    /// Waits until `moment`. Time for which the machine is suspended counts.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn sleep_until(&self, moment: Moment) {
        loop {
            let left = self.until(moment);
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(SUSPEND_CHECK_INTERVAL)).await;
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("now", &self.now()).field("margin", &self.margin).finish()
    }
}

impl Moment {
    /// The moment that is `time` later.
    #[must_use]
    pub fn after(self, time: Duration) -> Moment {
        Moment(self.0.saturating_add(nanos(time)))
    }

    /// Time from `earlier` to this moment; zero if this moment is not later.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    pub(crate) const fn as_nanos(self) -> u64 {
        self.0
    }

    pub(crate) const fn from_nanos(nanos: u64) -> Moment {
        Moment(nanos)
    }
}

impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&Duration::from_nanos(self.0), f)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Origin of all moments of this process: a day before the first reading, so that a paused test
/// clock, which stands at the moment when it was paused, is later too.
fn anchor() -> std::time::Instant {
    static ANCHOR: OnceLock<std::time::Instant> = OnceLock::new();
    *ANCHOR.get_or_init(|| {
        let now = std::time::Instant::now();
        now.checked_sub(Duration::from_secs(86_400)).unwrap_or(now)
    })
}

/// Time for which this machine was suspended since the first reading in this process, in
/// nanoseconds. It never decreases.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn suspended_by_machine() -> u64 {
    static SEEN: AtomicU64 = AtomicU64::new(0);
    static BEFORE: OnceLock<u64> = OnceLock::new();
    /// Two clocks cannot be read at once: a difference below this is the time between the two
    /// readings.
    const MAX_NOISE_NANOS: u64 = 1_000_000;

    let read = || {
        let clock = |id| {
            let time = rustix::time::clock_gettime(id);
            time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
        };
        // The boot-time clock is read first: a preemption in between can only make this one
        // difference too small.
        let boot = clock(rustix::time::ClockId::Boottime);
        boot.saturating_sub(clock(rustix::time::ClockId::Monotonic))
    };
    let difference = read();
    let before = *BEFORE.get_or_init(|| difference);
    let suspended = difference.saturating_sub(before);
    let seen = SEEN.load(Ordering::Relaxed);
    if suspended > seen.saturating_add(MAX_NOISE_NANOS) {
        return SEEN.fetch_max(suspended, Ordering::Relaxed).max(suspended);
    }
    seen
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn suspended_by_machine() -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn the_clock_follows_tokio_and_counts_a_suspend() {
        let (clock, suspender) = Clock::for_tests();
        let start = clock.now();
        tokio::time::advance(SECOND).await;
        assert_eq!(clock.now().since(start), SECOND);
        suspender.suspend(60 * SECOND);
        assert_eq!(clock.now().since(start), 61 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sleeper_wakes_within_a_second_of_a_suspend() {
        let (clock, suspender) = Clock::for_tests();
        let until = clock.now().after(3600 * SECOND);
        suspender.suspend(3599 * SECOND);
        let start = tokio::time::Instant::now();
        clock.sleep_until(until).await;
        assert!(start.elapsed() <= SECOND);
    }

    #[test]
    fn validity_counts_from_sending_and_ends_a_margin_early() {
        let clock = Clock::system();
        let sent = clock.now();
        assert_eq!(clock.valid_until(sent, 10 * SECOND).since(sent), Duration::from_millis(10_000 - 100 - 2));
        assert_eq!(clock.valid_until(sent, Duration::from_millis(1)), sent);
        assert_eq!(clock.with_margin(SECOND).valid_until(sent, 10 * SECOND).since(sent), 9 * SECOND);
    }

    #[test]
    fn the_machine_clock_never_goes_back() {
        let clock = Clock::system();
        let mut last = clock.now();
        for _ in 0..10_000 {
            let now = clock.now();
            assert!(now >= last);
            last = now;
        }
    }
}
