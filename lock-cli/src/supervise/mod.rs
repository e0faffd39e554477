//! Runs a command in a process group of its own, and stops it, and all that it has started, before
//! the lease that it runs under has ended.
//!
//! Two processes share the work, so that it is also done when one of them is stopped or killed:
//!
//! - the **supervisor**, which is `leasehold` itself: it holds the lock, forwards signals, and
//!   sends the deadline of the lease to the watchdog after every renewal;
//! - the **watchdog**, a small process of the same executable: it starts the command, and stops it
//!   before the last deadline that it received, or at once when its supervisor has ended.
//!
//! A socket joins them. Its end is how each learns that the other has died.
//!
//! Whatever the command starts stays below the watchdog in the tree of processes, also what leaves
//! the group, its session or its parent: both processes adopt the orphans below them. What has to
//! be stopped is everything there.
//!
//! The watchdog, and not the supervisor, is the parent of the command. It reaps the command only
//! when nobody will signal the group any more. Until then the command's process id, which is the
//! group's id, cannot be given to another process, so that neither can hit a stranger; and the
//! group is never without somebody who knows it, from its first moment on.

mod boot_time;
mod deadline_file;
mod descendants;
mod frame;
mod job;
mod mask;
mod run_limit;
mod signals;
mod spawn;
mod stop_policy;
mod supervisor;
mod terminal;
mod watchdog;
mod watchdog_order;
mod watched_command;

pub(crate) use self::job::{Ending, Job, StopReason};
pub(crate) use self::signals::Signals;
pub(crate) use self::stop_policy::StopPolicy;
pub(crate) use self::supervisor::supervise;
pub(crate) use self::watchdog::watch;
pub(crate) use self::watchdog_order::WatchdogOrder;
