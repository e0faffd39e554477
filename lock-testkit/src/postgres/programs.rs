//! The programs of PostgreSQL, and the user that runs them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::getuid;

#[track_caller]
pub(super) fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| not_installed(&command.get_program().to_string_lossy(), &error));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[track_caller]
pub(super) fn not_installed(name: &str, error: &std::io::Error) -> ! {
    panic!("{name} cannot be started: {error}; ./test.sh installs what the tests need")
}

/// A server program of PostgreSQL, run as the user of servers.
pub(super) fn server_program(name: &str) -> Command {
    unprivileged(&path_of(name))
}

/// A program, run as the user of servers.
pub(super) fn unprivileged(path: &Path) -> Command {
    let mut command = match server_user() {
        None => Command::new(path),
        Some(user) => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", user, "--regid", user, "--clear-groups", "--"]).arg(path);
            command
        }
    };
    // That user may not be allowed to enter the folder of the test.
    command.current_dir("/");
    command
}

/// The user that servers run as if the tests run as root: the one that Debian's package creates.
pub(super) fn server_user() -> Option<&'static str> {
    getuid().is_root().then_some("postgres")
}

/// The path of a program. Debian has a folder for each version of the server; the newest is used.
pub(super) fn path_of(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|version| Some((version.file_name().to_str()?.parse::<u32>().ok()?, version.path().join("bin"))))
        .filter(|(_, folder)| folder.join("postgres").exists())
        .max_by_key(|(version, _)| *version);
    let sbin = PathBuf::from("/usr/sbin");
    let folders = newest.into_iter().map(|(_, folder)| folder).chain([sbin]);
    folders.map(|folder| folder.join(name)).find(|path| path.exists()).unwrap_or_else(|| name.into())
}

/// The path of libfaketime.
#[track_caller]
pub(super) fn faketime_library() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let libraries = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1"));
    let found = libraries.filter(|library| library.exists()).last();
    found.expect("libfaketime is there; ./test.sh installs what the tests need")
}
