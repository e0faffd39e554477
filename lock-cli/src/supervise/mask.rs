//! [`InheritedMask`]: the signals that were blocked when this process was started.

use std::io;

use nix::sys::signal::{SigSet, SigmaskHow};

/// The signals that whoever started this process has blocked for it. They are for the command, not
/// for us: with SIGCHLD blocked, nobody would learn that the command has ended.
#[derive(Debug)]
pub(crate) struct InheritedMask(SigSet);

impl InheritedMask {
    /// Blocks nothing any more in this thread and those that it starts.
    pub(crate) fn unblock() -> io::Result<InheritedMask> {
        Ok(InheritedMask(SigSet::empty().thread_swap_mask(SigmaskHow::SIG_SETMASK)?))
    }

    /// Starts a process that blocks what was blocked for us.
    pub(crate) fn restored_for<T>(&self, start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let ours = self.0.thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
        let started = start();
        ours.thread_set_mask()?;
        started
    }
}
