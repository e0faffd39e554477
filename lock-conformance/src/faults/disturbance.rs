//! [`Step`], what happens to one call; [`Mix`], how often.

use std::time::Duration;

use crate::Random;

/// A kind of call to a store that faults are made for. Calls for operators are never touched.
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
    /// [`RecordStore::read_record`](lock_core::RecordStore::read_record) and [`RecordStore::replace_record`](lock_core::RecordStore::replace_record).
    Record,
}

/// What happens to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Disturbance {
    /// Nothing: it is applied and answered.
    Pass,
    /// It reaches the store late.
    Delay(Duration),
    /// It reaches the store late, and its reply comes late.
    DelayBoth(Duration),
    /// It is applied, and its reply comes late.
    DelayReply(Duration),
    /// It does not reach the store, and an error says so.
    Fail,
    /// It is applied, and an error says that this is unknown.
    FailApplied,
    /// It is applied, and its reply never comes.
    LoseReply,
    /// It never reaches the store, and no reply comes.
    Hang,
    /// An error says at once that its outcome is unknown, and it is applied this much later.
    ApplyLate(Duration),
    /// It is applied and answered, and applied once more this much later.
    ApplyTwice(Duration),
}

/// How often what happens, in a random schedule.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Mix {
    /// Of a hundred calls, how many something happens to.
    pub fault_percent: u64,
    /// The longest delay.
    pub max_delay: Duration,
}

impl Mix {
    /// Something happens to this many of a hundred calls, with delays up to `longest`.
    pub fn new(percent: u64, longest: Duration) -> Mix {
        Mix { fault_percent: percent, max_delay: longest }
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
