//! [`spawn`]: starts a command as a shell would.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command};

use rustix::fs::{Access, access};

use super::deadline_file::DeadlineFile;
use super::mask::InheritedMask;

/// Starts the command in its own process group, with these streams.
pub(super) fn spawn(
    command: &[OsString],
    streams: &[OwnedFd; 3],
    inner_deadline: Option<&DeadlineFile>,
    mask: &InheritedMask,
) -> io::Result<Child> {
    let [program, args @ ..] = command else { return Err(io::ErrorKind::NotFound.into()) };
    let start = |command: &mut Command| {
        let [stdin, stdout, stderr] = streams;
        command.args(args).stdin(stdin.try_clone()?).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
        command.envs(inner_deadline.map(DeadlineFile::variable)).process_group(0);
        mask.restored_for(|| command.spawn())
    };
    match start(&mut Command::new(program)) {
        // A script without an interpreter line is run by the shell, as shells and execvp do.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => {
            start(Command::new("/bin/sh").arg(resolve_program(program)))
        }
        started => started,
    }
}

/// The path at which the system finds this program.
fn resolve_program(program: &OsStr) -> PathBuf {
    if program.as_bytes().contains(&b'/') {
        return program.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    let is_executable = |file: &PathBuf| file.is_file() && access(file, Access::EXEC_OK).is_ok();
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(is_executable)
        .unwrap_or_else(|| program.into())
}
