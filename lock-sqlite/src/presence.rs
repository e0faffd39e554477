//! [`Presence`]: announces to other processes that a lock file is in use, and with which log.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::{Mutex, MutexGuard};

use lock_core::Result;
use lock_core::kit::locked;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::error::{self, OpenError};
use crate::file::LockFile;
use crate::inode::Inode;
use crate::wal_files::WalFiles;

/// The announcement that a lock file is in use, and with which log. All processes that have the
/// file open see it, by whatever path and in whatever container. It ends when this is dropped.
///
/// SQLite finds the log by the path of the file. Two processes that open one file by two paths, or
/// one of them after the log was moved away, would each have a log of their own, and so other
/// leases and the same tokens. They do share the file itself, and the kernel's locks on it. So each
/// process locks one byte of the file, far behind its end, whose offset stands for the log. A lock
/// on any other byte means that another process has another log.
///
/// A process that closes a file loses its POSIX locks on it, SQLite's too. So all stores of a
/// process share one open file, which is closed when none of them has a connection.
#[derive(Debug)]
pub(crate) struct Presence {
    inode: Inode,
    announced: bool,
}

/// The use of one lock file by this process.
struct FileUse {
    file: File,
    stores: usize,
    /// The byte that is locked, and the number of stores for which it is.
    announced: Option<(i64, usize)>,
}

static IN_USE: Mutex<BTreeMap<Inode, FileUse>> = Mutex::new(BTreeMap::new());

/// SQLite's own locks are on 512 bytes from 1 GiB on. Beyond 2 GiB some platforms have no locks.
const FIRST_BYTE: i64 = (1 << 30) + (1 << 20);
const LAST_BYTE: i64 = (1 << 31) - 2;

impl Presence {
    /// Opens the file, and announces nothing yet.
    pub(crate) fn open(file: &LockFile) -> Result<Presence, OpenError> {
        let mut uses = in_use();
        if let Some(file_use) = uses.get_mut(&file.inode) {
            file_use.stores += 1;
            return Ok(Presence { inode: file.inode, announced: false });
        }
        let failed = |e: io::Error| error::classify_path(file.path(), &e, "the lock file cannot be opened");
        let open = File::open(file.real()).map_err(failed)?;
        let found = Inode::from(&open.metadata().map_err(failed)?);
        if found != file.inode {
            // Closing it would drop the locks of the stores that use it.
            if uses.contains_key(&found) {
                std::mem::forget(open);
            }
            return Err(OpenError::OtherLog);
        }
        uses.insert(file.inode, FileUse { file: open, stores: 1, announced: None });
        Ok(Presence { inode: file.inode, announced: false })
    }

    /// True if any process uses the file with another log than this; for `None`, if any process
    /// uses it.
    pub(crate) fn is_used_with_other_log(&self, file: &LockFile, mine: Option<&WalFiles>) -> Result<bool> {
        let uses = in_use();
        let others =
            uses.get(&self.inode).map_or(Ok(false), |file_use| file_use.is_used_with_other_log(mine.map(byte)));
        others.map_err(|failed| unknown_users(file, &failed))
    }

    /// Announces that the file is used with this log; returns false if another process announces
    /// another one. Two processes with different logs always see each other, since each announces
    /// its own before it checks.
    pub(crate) fn announce(&mut self, file: &LockFile, mine: &WalFiles) -> Result<bool> {
        let (mut uses, byte) = (in_use(), byte(mine));
        let Some(file_use) = uses.get_mut(&self.inode) else { return Ok(false) };
        let announced = file_use.announce(byte).map_err(|failed| unknown_users(file, &failed))?;
        self.announced |= announced;
        Ok(announced)
    }
}

/// The users of a lock file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Users {
    /// Number of stores of this process.
    pub(crate) stores: usize,
    /// True if another process uses it, with the same log.
    pub(crate) has_others: bool,
}

/// The users of the lock file with this identity.
///
/// # Errors
///
/// Errors of the system, which was asked for the locks on the file.
pub(crate) fn users_of(inode: Inode) -> io::Result<Users> {
    let uses = in_use();
    let Some(file_use) = uses.get(&inode) else { return Ok(Users { stores: 0, has_others: false }) };
    let has_others = match file_use.announced {
        Some((byte, _)) => file_use.is_locked(byte, byte + 1)?,
        None => false,
    };
    Ok(Users { stores: file_use.stores, has_others })
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut uses = in_use();
        let Some(file_use) = uses.get_mut(&self.inode) else { return };
        if self.announced {
            file_use.retract();
        }
        file_use.stores -= 1;
        if file_use.stores == 0 {
            uses.remove(&self.inode);
        }
    }
}

impl FileUse {
    fn is_used_with_other_log(&self, mine: Option<i64>) -> io::Result<bool> {
        let here = self.announced.is_some_and(|(byte, _)| Some(byte) != mine);
        let mine = mine.unwrap_or(LAST_BYTE + 1);
        Ok(here || self.is_locked(FIRST_BYTE, mine)? || self.is_locked(mine + 1, LAST_BYTE + 1)?)
    }

    fn announce(&mut self, byte: i64) -> io::Result<bool> {
        if self.announced.is_none() {
            lock(&self.file, libc::F_RDLCK, byte)?;
            self.announced = Some((byte, 0));
        }
        let others = self.is_used_with_other_log(Some(byte));
        if let Some((_, stores)) = &mut self.announced {
            *stores += 1;
        }
        let alone = matches!(others, Ok(false));
        if !alone {
            self.retract();
        }
        others.map(|_| alone)
    }

    fn retract(&mut self) {
        let Some((byte, stores)) = &mut self.announced else { return };
        *stores -= 1;
        if *stores == 0 {
            // If that fails, closing the file unlocks it, which happens after the last store.
            let _ = lock(&self.file, libc::F_UNLCK, *byte);
            self.announced = None;
        }
    }

    /// True if any other open file has a lock on a byte from `from` up to `to`.
    fn is_locked(&self, from: i64, to: i64) -> io::Result<bool> {
        if from >= to {
            return Ok(false);
        }
        let mut found = range(libc::F_WRLCK, from, to - from);
        fcntl(&self.file, FcntlArg::F_OFD_GETLK(&mut found))?;
        Ok(i32::from(found.l_type) != libc::F_UNLCK)
    }
}

fn in_use() -> MutexGuard<'static, BTreeMap<Inode, FileUse>> {
    locked(&IN_USE)
}

/// The byte that stands for this log.
fn byte(wal_files: &WalFiles) -> i64 {
    FIRST_BYTE + (wal_files.hash() % (LAST_BYTE - FIRST_BYTE + 1).unsigned_abs()).cast_signed()
}

fn lock(file: &File, kind: i32, byte: i64) -> io::Result<()> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&range(kind, byte, 1)))?;
    Ok(())
}

fn range(kind: i32, start: i64, length: i64) -> libc::flock {
    // A lock of an open file description belongs to no process: the kernel demands 0.
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start as libc::off_t,
        l_len: length as libc::off_t,
        l_pid: 0,
    }
}

fn unknown_users(file: &LockFile, failed: &io::Error) -> lock_core::Error {
    error::classify_path(file.path(), failed, "its file system does not tell who else uses the lock file")
}
