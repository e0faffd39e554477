//! [`Terminal`]: whose turn it is at the terminal.

use std::fs::File;

use nix::sys::signal::{SigSet, Signal as Blocked};
use rustix::process::{Pid, getpgrp, getppid, getsid};
use rustix::termios::{isatty, tcgetpgrp, tcsetpgrp};

/// The terminal of this session, and this process's own group.
#[derive(Debug)]
pub(crate) struct Terminal {
    tty: File,
    own: Pid,
}

impl Terminal {
    /// The terminal of this session, if it has one.
    pub(crate) fn open() -> Option<Terminal> {
        let tty = File::options().read(true).write(true).open("/dev/tty").ok()?;
        Some(Terminal { tty, own: getpgrp() })
    }

    /// Whether a command wants the terminal from its beginning: one that reads and writes it.
    /// Another may stand in a pipeline, whose other members share our group and may need the
    /// terminal; it gets it when it asks.
    pub(crate) fn is_wanted() -> bool {
        isatty(std::io::stdin()) && isatty(std::io::stdout())
    }

    /// Whether our own group has the terminal.
    pub(crate) fn is_ours(&self) -> bool {
        self.is_at(self.own)
    }

    /// Whether this group has the terminal.
    pub(crate) fn is_at(&self, group: Pid) -> bool {
        tcgetpgrp(&self.tty).is_ok_and(|at| at == group)
    }

    /// Gives the terminal to this group.
    pub(crate) fn give(&self, group: Pid) {
        let _ = tcsetpgrp(&self.tty, group);
    }

    /// Takes the terminal back from this group, if it still has it.
    pub(crate) fn take_back(&self, group: Pid) {
        if !self.is_at(group) {
            return;
        }
        // Whoever takes the terminal from the background is stopped, unless this signal is blocked
        // or ignored.
        let mut set = SigSet::empty();
        set.add(Blocked::SIGTTOU);
        if set.thread_block().is_ok() {
            let _ = tcsetpgrp(&self.tty, self.own);
            let _ = set.thread_unblock();
        }
    }

    /// Whether somebody would continue us if we stopped: a shell in our session, outside our group.
    /// Without one (the command that a login or a container began with, or one whose shell has
    /// gone) the system lets Ctrl-Z stop nobody.
    pub(crate) fn has_job_control() -> bool {
        let Some(parent) = getppid() else { return false };
        let (Ok(session), Ok(parents)) = (getsid(None), getsid(Some(parent))) else { return false };
        // A parent in our own group is a script, and its shell is further up.
        session == parents && session != getpgrp()
    }
}
