//! Runs a command in a process group of its own, and stops it, and all that it has started, before the lease that it runs
//! under has ended.
//!
//! Two processes share the work, so that it is also done when one of them is stopped or killed:
//!
//! - the **supervisor**, which is `leasehold` itself: it holds the lock, forwards signals, and tells the watchdog after
//!   every renewal until when the lease is valid;
//! - the **watchdog**, a small process of the same executable: it starts the command, and stops it before the last
//!   deadline that it was told, or at once when its supervisor has gone.
//!
//! A socket joins them. Its end is how each learns that the other has died.
//!
//! Whatever the command starts stays below the watchdog in the tree of processes, also what leaves the group, its session
//! or its parent: both processes adopt the orphans below them. What has to be stopped is everything there.
//!
//! The watchdog, and not the supervisor, is the parent of the command. It reaps the command only when nobody will
//! signal the group any more. Until then the command's process id, which is the group's id, cannot be given to another
//! process, so that neither can hit a stranger; and the group is never without somebody who knows it, from its first
//! moment on.

mod boot_time;
mod deadline_file;
mod descendants;
mod frame;
mod job;
mod mask;
mod signals;
mod supervisor;
mod terminal;
mod watchdog;

use std::time::Duration;

pub(crate) use self::job::{Ending, Job, Why};
pub(crate) use self::mask::InheritedMask;
pub(crate) use self::signals::Signals;
pub(crate) use self::supervisor::supervise;
pub(crate) use self::watchdog::{WatchdogOrder, watch};

/// How long the end of what was killed is watched. The system ends it at once, or does not let it end.
const ENDING: Duration = Duration::from_secs(2);

/// How a lease's end is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    /// SIGTERM comes this long before the deadline.
    pub(crate) grace: Duration,
    /// SIGKILL comes this long before the deadline, so that the command is dead at the deadline.
    pub(crate) lead: Duration,
}

impl Terms {
    /// The terms for leases of this TTL. The lead is a twentieth of the TTL, 5 ms to 500 ms: what a busy machine may
    /// take to run the watchdog and to end the processes.
    pub(crate) fn new(ttl: Duration, grace: Duration) -> Terms {
        Terms { grace, lead: (ttl / 20).clamp(Duration::from_millis(5), Duration::from_millis(500)) }
    }
}
