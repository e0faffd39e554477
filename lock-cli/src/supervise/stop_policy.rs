//! [`StopPolicy`]: when a command is stopped.

use std::time::Duration;

/// Time limit for the end of killed processes. The system ends them at once, or does not let them
/// end.
pub(super) const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// The times of SIGTERM and SIGKILL before the end of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StopPolicy {
    /// SIGTERM comes this long before the deadline.
    pub(crate) grace: Duration,
    /// SIGKILL comes this long before the deadline, so that the command is dead at the deadline.
    pub(crate) lead: Duration,
}

impl StopPolicy {
    /// The policy for leases of this TTL. The lead is a twentieth of the TTL, 5 ms to 500 ms: the
    /// time that a busy machine may need to run the watchdog and to end the processes.
    pub(crate) fn new(ttl: Duration, grace: Duration) -> StopPolicy {
        StopPolicy { grace, lead: (ttl / 20).clamp(Duration::from_millis(5), Duration::from_millis(500)) }
    }
}
