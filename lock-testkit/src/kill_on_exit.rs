//! [`KillOnExit`]: ends a server that outlives its test.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::process::Process;

/// Ends a server when this process ends without doing so, however it ends: a test program may exit
/// without dropping what it owns. Dropped, it does nothing more; drop it before the server is
/// reaped, whose process id may be given to another process afterwards.
///
/// It is a shell that reads a pipe which only this process holds open.
#[derive(Debug)]
pub(crate) struct KillOnExit {
    _shell: Process,
}

impl KillOnExit {
    /// Kills the process with this id (`kill -9`).
    pub(crate) fn kill(pid: u32) -> KillOnExit {
        KillOnExit::start(&["read _; kill -9 \"$1\"", "kill-on-exit", &pid.to_string()], None)
    }

    /// Asks the process with this id to quit, and removes its folder a second later.
    #[track_caller]
    pub(crate) fn quit_and_remove(pid: u32, folder: &Path) -> KillOnExit {
        let script = "read -r _; kill -QUIT \"$1\"; sleep 1; rm -rf \"$2\"";
        KillOnExit::start(&[script, "kill-on-exit", &pid.to_string()], Some(folder))
    }

    #[track_caller]
    fn start(script: &[&str], folder: Option<&Path>) -> KillOnExit {
        let mut command = Command::new("sh");
        command.arg("-c").args(script).args(folder);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        KillOnExit { _shell: Process::start(&mut command) }
    }
}
