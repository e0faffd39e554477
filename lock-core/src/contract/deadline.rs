//! [`Deadline`] of a belief, and the reason why it is over.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

use crate::words::{LossReason, Moment};

/// The deadline of a belief. It can be extended until it has passed. Once over, it stays over.
///
/// It is one atomic word: a deadline in nanoseconds or, with the top bit set, the reason of the
/// loss. So nobody can read a deadline that was already given up, and a late renewal cannot revive
/// it.
pub(crate) struct Deadline {
    word: AtomicU64,
    changed: Notify,
}

const LOST: u64 = 1 << 63;
const REASONS: [LossReason; 4] =
    [LossReason::Expired, LossReason::NotHeld, LossReason::SessionEnded, LossReason::Released];

impl Deadline {
    pub(crate) const NEVER: Moment = Moment::from_nanos(LOST - 1);

    pub(crate) fn until(deadline: Moment) -> Deadline {
        Deadline { word: AtomicU64::new(deadline.as_nanos().min(LOST - 1)), changed: Notify::new() }
    }

    /// Reason of the loss, if it is over at `now`. The first caller after the deadline makes the
    /// loss final, and calls `noticed`.
    pub(crate) fn loss(&self, now: Moment, noticed: impl FnOnce()) -> Option<LossReason> {
        let mut word = self.word.load(Ordering::Acquire);
        while word & LOST == 0 {
            if word > now.as_nanos() {
                return None;
            }
            // Fails only if it was extended or ended meanwhile: then the current word decides.
            match self.word.compare_exchange(word, encode(LossReason::Expired), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    self.changed.notify_waiters();
                    noticed();
                    return Some(LossReason::Expired);
                }
                Err(current) => word = current,
            }
        }
        Some(REASONS[(word & !LOST) as usize])
    }

    /// Extends the deadline, and never shortens it. Returns false if it had passed by `now`, or was
    /// ended.
    pub(crate) fn extend(&self, now: Moment, deadline: Moment) -> bool {
        let deadline = deadline.as_nanos().min(LOST - 1);
        let later = |word: u64| (word & LOST == 0 && word > now.as_nanos()).then_some(word.max(deadline));
        let extended = self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, later);
        if extended.is_ok_and(|before| before < deadline) {
            self.changed.notify_waiters();
        }
        extended.is_ok()
    }

    /// Ends it for this reason. Returns false if it was over before.
    pub(crate) fn end(&self, reason: LossReason) -> bool {
        let ended = self
            .word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| (word & LOST == 0).then_some(encode(reason)))
            .is_ok();
        if ended {
            self.changed.notify_waiters();
        }
        ended
    }

    /// Reason of the end, if it was ended or found to be over.
    pub(crate) fn ended_by(&self) -> Option<LossReason> {
        let word = self.word.load(Ordering::Acquire);
        (word & LOST != 0).then(|| REASONS[(word & !LOST) as usize])
    }

    /// True if it was ended or found to be over.
    pub(crate) fn is_over(&self) -> bool {
        self.ended_by().is_some()
    }

    /// The current deadline; a moment long ago if it is over.
    pub(crate) fn moment(&self) -> Moment {
        let word = self.word.load(Ordering::Acquire);
        Moment::from_nanos(if word & LOST == 0 { word } else { 0 })
    }

    /// Completes when the deadline is extended, ended, or found to be over; not by itself at the
    /// deadline.
    pub(crate) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }
}

fn encode(reason: LossReason) -> u64 {
    let index = REASONS.iter().position(|r| *r == reason).expect("BUG: every reason has a number");
    LOST | index as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(nanos: u64) -> Moment {
        Moment::from_nanos(nanos)
    }

    #[test]
    fn a_belief_ends_at_its_deadline_and_cannot_be_moved_on_afterwards() {
        let deadline = Deadline::until(at(10));
        assert_eq!(deadline.loss(at(9), || ()), None);
        assert_eq!(deadline.loss(at(10), || ()), Some(LossReason::Expired));
        assert!(!deadline.extend(at(5), at(100)));
        assert_eq!(deadline.loss(at(0), || ()), Some(LossReason::Expired));
    }

    #[test]
    fn a_renewal_that_arrives_late_does_not_move_the_deadline() {
        let deadline = Deadline::until(at(10));
        assert!(!deadline.extend(at(10), at(100)));
    }

    #[test]
    fn the_deadline_never_moves_back() {
        let deadline = Deadline::until(at(10));
        assert!(deadline.extend(at(1), at(50)));
        assert!(deadline.extend(at(2), at(20)));
        assert_eq!(deadline.moment(), at(50));
    }

    #[test]
    fn the_first_reason_stays() {
        let deadline = Deadline::until(at(10));
        assert!(deadline.end(LossReason::NotHeld));
        assert!(!deadline.end(LossReason::Released));
        assert_eq!(deadline.loss(at(0), || ()), Some(LossReason::NotHeld));
        assert!(!deadline.extend(at(0), at(20)));
    }
}
