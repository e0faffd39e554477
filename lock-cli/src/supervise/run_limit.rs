//! [`RunLimit`]: how long a command may run.

use std::time::Duration;

use super::deadline_file::OuterDeadline;
use super::stop_policy::StopPolicy;

/// The end of the time that a command may run: that of its lease, or of the `leasehold run` around
/// it.
#[derive(Debug)]
pub(super) struct RunLimit {
    pub(super) deadline: u64,
    pub(super) outer: Option<OuterDeadline>,
}

impl RunLimit {
    /// The moment of SIGTERM.
    pub(super) fn term_at(&self, policy: StopPolicy) -> u64 {
        let outer = self.outer.as_ref().map_or(u64::MAX, |outer| outer.until().saturating_sub(outer.lead()));
        self.deadline.saturating_sub(nanos(policy.grace.max(policy.lead))).min(outer)
    }

    /// The latest moment of SIGKILL.
    pub(super) fn kill_at(&self, policy: StopPolicy) -> u64 {
        self.deadline.saturating_sub(nanos(policy.lead)).min(self.outer())
    }

    /// The deadline of the `leasehold run` around it.
    pub(super) fn outer(&self) -> u64 {
        self.outer.as_ref().map_or(u64::MAX, OuterDeadline::until)
    }
}

/// Nanoseconds of a duration, saturating.
pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
