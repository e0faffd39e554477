//! Events about leases: tracing events, and metrics where the feature is on.
//!
//! Names of locks are in events, never in metrics: a label per lock could have one value per
//! invoice.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tracing::instrument::WithSubscriber as _;

use crate::runtime;
use crate::sync::locked;
use crate::words::{Error, HeldBy, Holder, LockName, LossReason};

macro_rules! count {
    ($name:literal $(, $key:literal => $value:expr)*) => {{
        #[cfg(feature = "metrics")]
        metrics::counter!($name $(, $key => $value)*).increment(1);
    }};
}

macro_rules! record {
    ($name:literal, $time:expr) => {{
        #[cfg(feature = "metrics")]
        metrics::histogram!($name).record($time.as_secs_f64());
    }};
}

pub(crate) fn acquired(name: &LockName, holder: Holder, waited: Duration) {
    tracing::debug!(%name, %holder, ?waited, "acquired");
    count!("leasehold_acquired_total");
    record!("leasehold_wait_seconds", waited);
}

pub(crate) fn waiting(name: &LockName, holder: Holder, by: &HeldBy) {
    tracing::debug!(%name, %holder, %by, "waiting");
}

pub(crate) fn contended(name: &LockName, holder: Holder) {
    tracing::debug!(%name, %holder, "contended");
    count!("leasehold_contended_total");
}

pub(crate) fn renewed(held: usize, not_held: usize) {
    tracing::trace!(held, not_held, "renewed");
    count!("leasehold_renewal_rounds_total", "outcome" => "answered");
}

pub(crate) fn lost(name: &LockName, holder: Holder, reason: LossReason) {
    static LOST: Burst = Burst::new("more leases were lost");
    match LOST.admits() {
        true => tracing::warn!(%name, %holder, %reason, "lost"),
        false => tracing::debug!(%name, %holder, %reason, "lost"),
    }
    count!("leasehold_lost_total", "reason" => label(reason));
}

pub(crate) fn released(name: &LockName, holder: Holder) {
    tracing::debug!(%name, %holder, "released");
    count!("leasehold_released_total");
}

pub(crate) fn gave_up_withdrawing(name: &LockName, holder: Holder, error: &Error) {
    static GIVEN_UP: Burst = Burst::new("more locks were not given back");
    const TEXT: &str = "not given back: its TTL will end it";
    match GIVEN_UP.admits() {
        true => tracing::warn!(%name, %holder, %error, "{TEXT}"),
        false => tracing::debug!(%name, %holder, %error, "{TEXT}"),
    }
}

/// Interval of the reports about events of the same kind: one line with a count instead of ten
/// thousand lines.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// Time without a failure after which an outage is over: one answer does not end it while other
/// calls have none.
const QUIET_PERIOD: Duration = Duration::from_secs(1);

/// An outage: calls that the store does not answer. It is reported when it begins, every ten
/// seconds with counts, and when it ends.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    is_ongoing: AtomicBool,
    state: Mutex<OutageState>,
}

#[derive(Debug, Default)]
struct OutageState {
    began_at: Option<Instant>,
    failed_at: Option<Instant>,
    reported_at: Option<Instant>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    requests: usize,
    renewals: usize,
    releases: usize,
}

impl Outage {
    /// Notes a request without an answer, which is retried.
    pub(crate) fn retrying(&self, name: &LockName, holder: Holder, error: &Error) {
        tracing::debug!(%name, %holder, %error, "asking again");
        count!("leasehold_retries_total");
        self.failed(|counts| counts.requests += 1, Some(error));
    }

    /// Notes renewals without an answer, which are retried.
    pub(crate) fn renewal_failed(&self, unanswered: usize, of: usize, error: Option<&Error>) {
        tracing::debug!(unanswered, of, error = error.map(tracing::field::display), "renewals without an answer");
        count!("leasehold_renewal_rounds_total", "outcome" => "unanswered");
        self.failed(|counts| counts.renewals += unanswered, error);
    }

    /// Notes a release without an answer.
    pub(crate) fn release_failed(&self, name: &LockName, holder: Holder, error: &Error) {
        tracing::debug!(%name, %holder, %error, "release without an answer");
        self.failed(|counts| counts.releases += 1, Some(error));
    }

    fn failed(&self, count: impl FnOnce(&mut Counts), error: Option<&Error>) {
        let now = Instant::now();
        let mut state = locked(&self.state);
        self.is_ongoing.store(true, Ordering::Release);
        state.failed_at = Some(now);
        count(&mut state.counts);
        let began = *state.began_at.get_or_insert(now);
        if state.reported_at.is_some_and(|reported| now < reported + REPORT_INTERVAL) {
            return;
        }
        state.reported_at = Some(now);
        let Counts { requests, renewals, releases } = std::mem::take(&mut state.counts);
        drop(state);
        let (error, lasts) = (error.map(tracing::field::display), now - began);
        tracing::warn!(requests, renewals, releases, ?lasts, error, "the store does not answer, asking again");
    }

    /// Notes an answer of the store.
    pub(crate) fn store_answered(&self) {
        if self.is_ongoing.load(Ordering::Acquire) {
            self.end();
        }
    }

    fn end(&self) {
        let now = Instant::now();
        let mut state = locked(&self.state);
        let Some(began) = state.began_at.filter(|_| state.failed_at.is_none_or(|failed| now >= failed + QUIET_PERIOD))
        else {
            return;
        };
        self.is_ongoing.store(false, Ordering::Release);
        state.began_at = None;
        // An outage that was not reported needs no report of its end.
        if state.reported_at.is_none_or(|reported| reported < began) {
            return;
        }
        let Counts { requests, renewals, releases } = std::mem::take(&mut state.counts);
        drop(state);
        tracing::info!(requests, renewals, releases, lasted = ?now - began, "the store answers again");
    }
}

/// Limits an event that may happen to thousands of leases at once: in each ten seconds the first
/// are reported by name, the others by their count.
struct Burst {
    more: &'static str,
    state: Mutex<BurstState>,
}

struct BurstState {
    since: Option<Instant>,
    count: usize,
}

impl Burst {
    /// Maximum number of events reported by name.
    const MAX_NAMED: usize = 10;

    const fn new(more: &'static str) -> Burst {
        Burst { more, state: Mutex::new(BurstState { since: None, count: 0 }) }
    }

    /// True if this event is to be reported by name; otherwise it is counted.
    fn admits(&'static self) -> bool {
        let now = Instant::now();
        let mut shown = locked(&self.state);
        if shown.since.is_none() {
            *shown = BurstState { since: Some(now), count: 0 };
        }
        shown.count += 1;
        if shown.count == Self::MAX_NAMED + 1 {
            drop(shown);
            self.report_count_later();
            return false;
        }
        if shown.count <= Self::MAX_NAMED && shown.since.is_some_and(|since| now >= since + REPORT_INTERVAL) {
            *shown = BurstState { since: Some(now), count: 1 };
        }
        shown.count <= Self::MAX_NAMED
    }

    /// Reports the count after the interval, even if no further event happens.
    fn report_count_later(&'static self) {
        let summing_up = async move {
            tokio::time::sleep(REPORT_INTERVAL).await;
            let shown = std::mem::replace(&mut *locked(&self.state), BurstState { since: None, count: 0 });
            tracing::warn!(count = shown.count.saturating_sub(Self::MAX_NAMED), "{}", self.more);
        };
        if let Ok(background) = runtime::background() {
            background.spawn(summing_up.with_current_subscriber());
        }
    }
}

#[cfg(feature = "metrics")]
fn label(reason: LossReason) -> &'static str {
    match reason {
        LossReason::Expired => "expired",
        LossReason::NotHeld => "not_held",
        LossReason::SessionEnded => "session_ended",
        LossReason::Released => "released",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_that_happen_at_once_the_first_are_named() {
        static MANY: Burst = Burst::new("more");
        assert_eq!((0..1000).filter(|_| MANY.admits()).count(), Burst::MAX_NAMED);
    }

    #[test]
    fn an_outage_is_over_when_nothing_has_failed_for_a_while() {
        let outage = Outage::default();
        let is_over = || locked(&outage.state).began_at.is_none();
        assert!(is_over());
        outage.failed(|counts| counts.requests += 1, None);
        outage.store_answered();
        assert!(!is_over(), "others may still have no answer");
        locked(&outage.state).failed_at = Instant::now().checked_sub(QUIET_PERIOD);
        outage.store_answered();
        assert!(is_over());
    }
}
