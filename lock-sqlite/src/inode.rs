//! [`Inode`]: the identity of a file.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use lock_core::{Filesystem, Result};

use crate::error::{self, invalid_file};

/// The identity of a file, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Inode {
    pub(crate) device: u64,
    pub(crate) number: u64,
}

impl From<&Metadata> for Inode {
    fn from(file: &Metadata) -> Inode {
        Inode { device: file.dev(), number: file.ino() }
    }
}

/// Checks that no process can open `file` by another path and find another log beside it: SQLite
/// keeps the latest writes in a file beside the path. `real` has no symbolic links.
pub(crate) fn check_single_path(real: &Path, file: &Metadata) -> Result<()> {
    if file.nlink() > 1 {
        let what = format!(
            "has {} names (hard links), and who uses another one would not see its leases; leave it one name, or use symbolic links",
            file.nlink()
        );
        return Err(invalid_file(real, what));
    }
    match Filesystem::is_mounted_alone(real) {
        Ok(false) => Ok(()),
        Ok(true) => Err(invalid_file(
            real,
            "is mounted here as a single file, and who uses it in its own folder would not see its leases; mount the folder",
        )),
        Err(failed) => Err(error::classify_path(real, &failed, "its mount cannot be looked at")),
    }
}
