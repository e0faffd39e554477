//! [`WalFiles`]: the log and its index beside a lock file.

use std::io;
use std::path::{Path, PathBuf};

use lock_core::Result;

use crate::error;
use crate::inode::{Inode, check_single_path};

/// The two files that SQLite keeps beside a lock file while it is in use: the log (`-wal`), which
/// has the latest writes, and its index (`-shm`). A process with another log sees other leases,
/// although the lock file is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WalFiles {
    log: Inode,
    index: Inode,
}

const SUFFIXES: [&str; 2] = ["-wal", "-shm"];

impl WalFiles {
    /// The files beside `real` now; `None` if one is missing, as while nobody uses the lock file.
    ///
    /// # Errors
    ///
    /// Invalid configuration for a file that other processes could find beside another lock file.
    pub(crate) fn find(real: &Path) -> Result<Option<WalFiles>> {
        let [log, index] = SUFFIXES.map(|suffix| read_inode(&sidecar_path(real, suffix)));
        Ok(log?.zip(index?).map(|(log, index)| WalFiles { log, index }))
    }

    /// The path at which each of them has to be.
    pub(crate) fn files(&self, real: &Path) -> [(PathBuf, Inode); 2] {
        let [log, index] = SUFFIXES.map(|suffix| sidecar_path(real, suffix));
        [(log, self.log), (index, self.index)]
    }

    /// A hash of their identities, the same in every version of this program (FNV-1a).
    pub(crate) fn hash(&self) -> u64 {
        let numbers = [self.log.device, self.log.number, self.index.device, self.index.number];
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes());
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
    }
}

/// The path of the log of the lock file at `path`.
///
/// # Errors
///
/// Errors of the system for this path.
pub(crate) fn log_path(path: &Path) -> io::Result<PathBuf> {
    Ok(sidecar_path(&path.canonicalize()?, SUFFIXES[0]))
}

fn read_inode(path: &Path) -> Result<Option<Inode>> {
    let found = match std::fs::symlink_metadata(path) {
        Err(failed) if failed.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => found.map_err(|failed| error::classify_path(path, &failed, "it cannot be looked at"))?,
    };
    if !found.is_file() {
        return Err(error::invalid_file(path, "is not a file, as SQLite's own beside a lock file has to be"));
    }
    // It may be removed at any moment, when its last user closes it.
    match check_single_path(path, &found) {
        Err(_) if !path.exists() => Ok(None),
        alone => alone.map(|()| Some((&found).into())),
    }
}

fn sidecar_path(real: &Path, suffix: &str) -> PathBuf {
    let mut path = real.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}
