//! [`Call`], [`Disturbance`], and [`Mix`]: which call is disturbed, how, and how often.

use std::time::Duration;

use crate::random::Random;

/// A kind of call to a store that can be disturbed. Calls of operators are never disturbed, except
/// for the diagnosis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Call {
    /// [`LockStore::request`](lock_core::LockStore::request).
    Request,
    /// [`LockStore::renew`](lock_core::LockStore::renew).
    Renew,
    /// [`LockStore::release`](lock_core::LockStore::release).
    Release,
    /// [`TokenRaiser::raise`](lock_core::TokenRaiser::raise).
    Raise,
    /// [`RecordStore::read_record`](lock_core::RecordStore::read_record) and
    /// [`RecordStore::replace_record`](lock_core::RecordStore::replace_record).
    Record,
    /// [`LockStore::diagnose`](lock_core::LockStore::diagnose).
    Diagnose,
}

/// A fault of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Disturbance {
    /// No fault: it is applied and answered.
    Pass,
    /// It reaches the store late.
    Delay(Duration),
    /// It reaches the store late, and its reply comes late.
    DelayBoth(Duration),
    /// It is applied, and its reply comes late.
    DelayReply(Duration),
    /// It does not reach the store; the error says that it had no effect.
    Fail,
    /// It is applied; the error says that the effect is unknown.
    FailApplied,
    /// It is applied, and its reply never comes.
    LoseReply,
    /// It never reaches the store, and no reply comes.
    Hang,
    /// An error says at once that the effect is unknown; it is applied after this delay.
    ApplyLate(Duration),
    /// It is applied and answered, and applied a second time after this delay.
    ApplyTwice(Duration),
}

/// The fault rate and the longest delay of a random schedule.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Mix {
    /// Percentage of calls that are disturbed.
    pub fault_percent: u64,
    /// The longest delay.
    pub max_delay: Duration,
}

impl Mix {
    /// Disturbs this percentage of the calls, with delays up to `max_delay`.
    pub fn new(fault_percent: u64, max_delay: Duration) -> Mix {
        Mix { fault_percent, max_delay }
    }

    pub(crate) fn draw(&self, random: &mut Random) -> Disturbance {
        if random.below(100) >= self.fault_percent {
            return Disturbance::Pass;
        }
        let nanos = u64::try_from(self.max_delay.as_nanos()).unwrap_or(u64::MAX);
        let delay = Duration::from_nanos(random.below(nanos));
        match random.below(10) {
            0..2 => Disturbance::Delay(delay),
            2..4 => Disturbance::DelayReply(delay),
            4 => Disturbance::Fail,
            5 => Disturbance::FailApplied,
            6 => Disturbance::LoseReply,
            7 => Disturbance::Hang,
            8 => Disturbance::ApplyLate(delay),
            _ => Disturbance::ApplyTwice(delay),
        }
    }
}
