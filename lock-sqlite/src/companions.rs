//! [`Companions`]: the two files that SQLite keeps beside a lock file.

use std::io;
use std::path::{Path, PathBuf};

use lock_core::Result;

use crate::error;
use crate::file::{self, Inode};

/// The two files that SQLite keeps beside a lock file while it is in use: the log, which has what was written last, and
/// its index. Who has others has other leases, although the lock file is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Companions {
    log: Inode,
    index: Inode,
}

const ENDINGS: [&str; 2] = ["-wal", "-shm"];

impl Companions {
    /// Those that stand beside `real` now; `None` if one is missing, as while nobody uses the file.
    ///
    /// # Errors
    ///
    /// Invalid configuration for one that others could come to beside another lock file.
    pub(crate) fn beside(real: &Path) -> Result<Option<Companions>> {
        let [log, index] = ENDINGS.map(|ending| look(&beside(real, ending)));
        Ok(log?.zip(index?).map(|(log, index)| Companions { log, index }))
    }

    /// Where each of them has to be.
    pub(crate) fn files(&self, real: &Path) -> [(PathBuf, Inode); 2] {
        let [log, index] = ENDINGS.map(|ending| beside(real, ending));
        [(log, self.log), (index, self.index)]
    }

    /// A number that says which they are, the same in every version of this program (FNV-1a).
    pub(crate) fn mark(&self) -> u64 {
        let numbers = [self.log.device, self.log.number, self.index.device, self.index.number];
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes());
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
    }
}

fn look(path: &Path) -> Result<Option<Inode>> {
    let found = match std::fs::symlink_metadata(path) {
        Err(failed) if failed.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => found.map_err(|failed| error::of_path(path, &failed, "it cannot be looked at"))?,
    };
    if !found.is_file() {
        return Err(file::refused(path, "is not a file, as SQLite's own beside a lock file has to be"));
    }
    // It may be taken away at any moment while its last user closes it.
    match file::check_alone(path, &found) {
        Err(_) if !path.exists() => Ok(None),
        alone => alone.map(|()| Some((&found).into())),
    }
}

fn beside(real: &Path, ending: &str) -> PathBuf {
    let mut path = real.as_os_str().to_owned();
    path.push(ending);
    path.into()
}
