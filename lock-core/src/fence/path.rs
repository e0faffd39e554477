//! The path of a fence's file: one file, one name, replaced by an atomic rename.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind as Io};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::file_error::{OpenError, io_error, missing};
use super::format::HEADER;
use crate::filesystem::Filesystem;
use crate::words::{Error, Result, random};

/// Creates an empty fence at `path`, unless another process has created it meanwhile.
pub(super) fn create(path: &Path) -> Result<()> {
    let failed = |error| io_error("made", path, error);
    let fresh = beside(path, &format!(".new-{:x}", random::bits128()));
    let file = fresh_file(&fresh).map_err(failed)?;
    let made =
        file.write_all_at(HEADER.as_bytes(), 0).and_then(|()| file.sync_all()).and_then(|()| place(&fresh, path));
    if let Err(error) = made {
        let _ = fs::remove_file(&fresh);
        return if error.kind() == Io::AlreadyExists { Ok(()) } else { Err(failed(error)) };
    }
    // The new name is not on disk before its directory is.
    sync_directory(path).map_err(failed)
}

/// Renames to a name that must not exist.
#[cfg(any(target_os = "linux", target_vendor = "apple"))]
pub(super) fn place(fresh: &Path, path: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, fresh, CWD, path, RenameFlags::NOREPLACE)?)
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
pub(super) fn place(fresh: &Path, path: &Path) -> io::Result<()> {
    fs::hard_link(fresh, path)?;
    fs::remove_file(fresh)
}

/// Creates a new file; an existing symbolic link is not followed.
pub(super) fn fresh_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(directory(path))?.sync_all()
}

pub(super) fn metadata(path: &Path) -> Result<Metadata> {
    fs::metadata(path).map_err(|error| match error.kind() {
        Io::NotFound => missing(OpenError::Missing, path),
        _ => io_error("read", path, error),
    })
}

pub(super) fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Checks that the fence has no other path: after a rewrite, that path would lead to the old file,
/// and admit old holders.
pub(super) fn check_alone(path: &Path, found: &Metadata) -> Result<()> {
    if found.nlink() > 1 {
        return Err(Error::invalid_config(format!(
            "the fence {} has {} names (hard links), and would become as many fences; leave it one name, or use symbolic links",
            path.display(),
            found.nlink()
        )));
    }
    if Filesystem::is_mounted_alone(path).map_err(|error| io_error("opened", path, error))? {
        return Err(Error::invalid_config(format!(
            "the fence {} is mounted here as a single file, and would become two fences; mount its folder",
            path.display()
        )));
    }
    Ok(())
}

/// The path without symbolic links, so that a rename to it replaces the file for all users.
pub(super) fn resolve(path: &Path) -> Result<PathBuf> {
    let refuse = |error: io::Error| match error.kind() {
        Io::NotFound => {
            Error::invalid_config(format!("there is no directory {} for a fence", directory(path).display()))
        }
        _ => io_error("opened", path, error),
    };
    match fs::canonicalize(path) {
        Err(error) if error.kind() == Io::NotFound => {
            if fs::symlink_metadata(path).is_ok() {
                return Err(Error::invalid_config(format!(
                    "{} is a link to a file that does not exist, and so no fence",
                    path.display()
                )));
            }
            let name =
                path.file_name().ok_or_else(|| Error::invalid_config(format!("{} names no file", path.display())))?;
            Ok(fs::canonicalize(directory(path)).map_err(refuse)?.join(name))
        }
        path => path.map_err(refuse),
    }
}

pub(super) fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
