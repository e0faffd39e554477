//! The folders of servers.

use std::process::Command;

use tempfile::TempDir;

use super::programs::{run, server_program, server_user};

/// A folder owned by the user that servers run as. It is in memory where there is room: other tests
/// write to the disk at the same time, and a commit would wait for them.
pub(super) fn new_folder() -> TempDir {
    let folder = match has_room("/dev/shm") {
        true => tempfile::tempdir_in("/dev/shm"),
        false => tempfile::tempdir(),
    };
    let folder = folder.expect("a folder for a server");
    if let Some(user) = server_user() {
        let owner = format!("{user}:");
        let done = Command::new("chown").arg(owner).arg(folder.path()).status();
        assert!(done.is_ok_and(|status| status.success()), "the folder of a server cannot be given to {user}");
    }
    folder
}

/// Whether the file system of a folder has room for several servers.
fn has_room(folder: &str) -> bool {
    const MIN_FREE_BYTES: u64 = 2 << 30;
    rustix::fs::statvfs(folder).is_ok_and(|found| found.f_bavail * found.f_frsize > MIN_FREE_BYTES)
}

/// A folder with the initial data of a server (`initdb`).
#[track_caller]
pub(super) fn new_database() -> TempDir {
    let folder = new_folder();
    let data = data_path(&folder);
    run(server_program("initdb").args(["-D", &data, "-U", "postgres", "-A", "trust", "-E", "UTF8"]).args([
        "--locale",
        "C",
        "--no-sync",
        "--wal-segsize",
        "1",
    ]));
    folder
}

pub(super) fn data_path(folder: &TempDir) -> String {
    folder.path().join("data").to_str().expect("a temporary folder has a plain name").to_owned()
}
