//! [`Presence`]: that a lock file is in use, and with which log, for all who have that very file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lock_core::Result;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::companions::Companions;
use crate::error::{self, Unusable};
use crate::file::{Inode, LockFile};

/// That a lock file is in use, and with which log, for all who have that very file, by whatever path and in whatever
/// container: it ends when this is dropped.
///
/// SQLite finds the log by the path that the file is opened by. Two processes that come to one file by two paths, or of
/// which one came after the log was moved away, would each have a log of their own, and so other leases and the same
/// tokens. What they do share is the file itself, and the kernel's locks on it. So each has a lock on the one byte of the
/// file, far behind its end, whose number stands for the log: who finds a lock on any other byte has another log than
/// somebody.
///
/// A process that closes a file loses the POSIX locks that it has on it, SQLite's too. So all stores of a process share
/// one open file, which is closed when none of them has a connection.
#[derive(Debug)]
pub(crate) struct Presence {
    inode: Inode,
    announced: bool,
}

/// What this process has of one lock file.
struct Use {
    file: File,
    stores: usize,
    /// Which byte is locked, and by how many of the stores.
    announced: Option<(i64, usize)>,
}

static IN_USE: Mutex<BTreeMap<Inode, Use>> = Mutex::new(BTreeMap::new());

/// SQLite's own locks are on 512 bytes from 1 GiB on. Beyond 2 GiB some platforms have no locks.
const FIRST: i64 = (1 << 30) + (1 << 20);
const LAST: i64 = (1 << 31) - 2;

impl Presence {
    /// Has the file open, and says nothing yet.
    pub(crate) fn enter(file: &LockFile) -> Result<Presence, Unusable> {
        let mut uses = in_use();
        if let Some(used) = uses.get_mut(&file.inode) {
            used.stores += 1;
            return Ok(Presence { inode: file.inode, announced: false });
        }
        let failed = |e: io::Error| error::of_path(file.path(), &e, "the lock file cannot be opened");
        let open = File::open(file.real()).map_err(failed)?;
        let found = Inode::from(&open.metadata().map_err(failed)?);
        if found != file.inode {
            // Closing it would cost the locks of those who use it.
            if uses.contains_key(&found) {
                std::mem::forget(open);
            }
            return Err(Unusable::Apart);
        }
        uses.insert(file.inode, Use { file: open, stores: 1, announced: None });
        Ok(Presence { inode: file.inode, announced: false })
    }

    /// Whether somebody uses the file with another log than this; with none at all, whether somebody uses it.
    pub(crate) fn others(&self, file: &LockFile, mine: Option<&Companions>) -> Result<bool> {
        let uses = in_use();
        let others = uses.get(&self.inode).map_or(Ok(false), |used| used.others(mine.map(byte)));
        others.map_err(|failed| unknown(file, &failed))
    }

    /// Says that the file is used with this log; gives whether nobody says otherwise. Two who come with different logs
    /// at the same time see each other, since each says so before it looks.
    pub(crate) fn announce(&mut self, file: &LockFile, mine: &Companions) -> Result<bool> {
        let (mut uses, byte) = (in_use(), byte(mine));
        let Some(used) = uses.get_mut(&self.inode) else { return Ok(false) };
        let announced = used.announce(byte).map_err(|failed| unknown(file, &failed))?;
        self.announced |= announced;
        Ok(announced)
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut uses = in_use();
        let Some(used) = uses.get_mut(&self.inode) else { return };
        if self.announced {
            used.retract();
        }
        used.stores -= 1;
        if used.stores == 0 {
            uses.remove(&self.inode);
        }
    }
}

impl Use {
    fn others(&self, mine: Option<i64>) -> io::Result<bool> {
        let here = self.announced.is_some_and(|(byte, _)| Some(byte) != mine);
        let mine = mine.unwrap_or(LAST + 1);
        Ok(here || self.is_locked(FIRST, mine)? || self.is_locked(mine + 1, LAST + 1)?)
    }

    fn announce(&mut self, byte: i64) -> io::Result<bool> {
        if self.announced.is_none() {
            lock(&self.file, libc::F_RDLCK, byte)?;
            self.announced = Some((byte, 0));
        }
        let others = self.others(Some(byte));
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
            // The only other way to give it up is to close the file, and that comes when nobody is left.
            let _ = lock(&self.file, libc::F_UNLCK, *byte);
            self.announced = None;
        }
    }

    /// Whether any other open file has a lock on a byte from `from` up to `to`.
    fn is_locked(&self, from: i64, to: i64) -> io::Result<bool> {
        if from >= to {
            return Ok(false);
        }
        let mut found = range(libc::F_WRLCK, from, to - from);
        fcntl(&self.file, FcntlArg::F_OFD_GETLK(&mut found))?;
        Ok(i32::from(found.l_type) != libc::F_UNLCK)
    }
}

fn in_use() -> MutexGuard<'static, BTreeMap<Inode, Use>> {
    IN_USE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The byte that stands for this log.
fn byte(companions: &Companions) -> i64 {
    FIRST + (companions.mark() % (LAST - FIRST + 1).unsigned_abs()).cast_signed()
}

fn lock(file: &File, kind: i32, byte: i64) -> io::Result<()> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&range(kind, byte, 1)))?;
    Ok(())
}

fn range(kind: i32, start: i64, length: i64) -> libc::flock {
    // A lock of an open file has no process, and the kernel wants a 0 for it.
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start as libc::off_t,
        l_len: length as libc::off_t,
        l_pid: 0,
    }
}

fn unknown(file: &LockFile, failed: &io::Error) -> lock_core::Error {
    error::of_path(file.path(), failed, "its file system does not tell who else uses the lock file")
}
