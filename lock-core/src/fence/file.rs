//! [`FileMemory`]: the memory of a fence in a file.
//!
//! The file is text: a line with the format's version, then one [`Record`] a line, as a checksum
//! and JSON. Records are appended, with one write and one sync each. When most of them are
//! outdated, a new file is written beside the old one and renamed over it. A writer holds the lock
//! of the file itself, and has checked that this file is still the one at the path: a separate lock
//! file could be removed, and then two processes would write. A new file is locked before it is
//! renamed.

use std::io::ErrorKind as Io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::thread;

use tokio::sync::{Mutex, OwnedMutexGuard, oneshot};

use super::block_on::block_on;
use super::file_error::{OpenError, interrupted, io_error, missing};
use super::file_lock::FileLock;
use super::highest::{HighestTokens, Record};
use super::journal::Journal;
use super::path::{create, resolve};
use crate::filesystem::Filesystem;
use crate::words::{Error, FencingToken, LockName, Realm, Result};

/// Maximum number of outdated records before the file is rewritten, in addition to one for each
/// name.
const MAX_OUTDATED_RECORDS: usize = 1_000;

/// The memory of a fence in a file.
pub(super) struct FileMemory {
    path: PathBuf,
    pub(super) filesystem: Filesystem,
    // A tokio mutex, so that at most one thread per fence waits for other processes. Lock order:
    // the gate of the name, this, the lock of the file, then `FileLock::locked`.
    state: Arc<Mutex<State>>,
}

struct State {
    path: PathBuf,
    journal: Journal,
    file_lock: Weak<FileLock>,
}

impl FileMemory {
    /// Opens the fence at `path`, and creates it if it is missing, unless it must be `existing`.
    pub(super) fn open(path: &Path, existing: bool) -> Result<FileMemory> {
        let path = resolve(path)?;
        let journal = match Journal::open(&path) {
            Err(OpenError::Missing) if existing => {
                return Err(Error::invalid_config(format!("there is no fence {}", path.display())));
            }
            Err(OpenError::Missing) => {
                create(&path)?;
                Journal::open(&path)?
            }
            journal => journal?,
        };
        let filesystem = Filesystem::of(&path).map_err(|error| io_error("opened", &path, error))?;
        if filesystem != Filesystem::Disk {
            tracing::warn!(path = %path.display(), ?filesystem, "the fence is not on a local disk: see Fence::filesystem");
        }
        let state = State { path: path.clone(), journal, file_lock: Weak::new() };
        Ok(FileMemory { path, filesystem, state: Arc::new(Mutex::new(state)) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) async fn enter(&self, name: &LockName, token: &FencingToken) -> Result<Arc<FileLock>> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| {
            Error::invalid_config("a fence in a file is entered inside a tokio runtime, or with enter_blocking")
        })?;
        let state = self.state.clone().lock_owned().await;
        let (name, token) = (name.clone(), token.clone());
        let mut entry = Entry { state, name, token };
        let at_once = runtime.spawn_blocking(move || (entry.try_enter(), entry)).await;
        let (entered, mut entry) = at_once.map_err(|_| interrupted())?;
        if let Some(file_lock) = entered? {
            return Ok(file_lock);
        }
        // Another process may keep its pass for long, and a runtime does not end before its
        // blocking tasks. So this waits on a detached thread.
        let (sender, receiver) = oneshot::channel();
        let waiting = thread::Builder::new().name("leasehold-fence".to_owned());
        waiting
            .spawn(move || sender.send(entry.enter_waiting()))
            .map_err(|error| io_error("entered", &self.path, error))?;
        receiver.await.map_err(|_| interrupted())?
    }

    pub(super) fn enter_blocking(&self, name: &LockName, token: &FencingToken) -> Result<Arc<FileLock>> {
        Entry { state: self.state(), name: name.clone(), token: token.clone() }.enter_waiting()
    }

    pub(super) fn adopt(&self, realm: &Realm) -> Result<()> {
        let mut state = self.state();
        let file_lock = state.file_lock_waiting()?;
        match state.journal.tokens.adopt(realm) {
            Some(record) => state.append(&file_lock, record),
            None => Ok(()),
        }
    }

    /// Reads the tokens in the file. It needs no lock: a record that another process has not
    /// finished writing does not count yet.
    pub(super) fn read(&self) -> Result<HighestTokens> {
        Ok(Journal::open(&self.path).map_err(|error| missing(error, &self.path))?.tokens)
    }

    fn state(&self) -> OwnedMutexGuard<State> {
        block_on(self.state.clone().lock_owned())
    }
}

/// An entry into the fence that holds the state's mutex.
struct Entry {
    state: OwnedMutexGuard<State>,
    name: LockName,
    token: FencingToken,
}

impl Entry {
    /// Enters, unless another process or handle has the lock of the file.
    fn try_enter(&mut self) -> Result<Option<Arc<FileLock>>> {
        match self.state.file_lock(false)? {
            Some(file_lock) => self.state.admit(&file_lock, &self.name, &self.token).map(|()| Some(file_lock)),
            None => Ok(None),
        }
    }

    /// Enters as soon as the lock of the file is free.
    fn enter_waiting(&mut self) -> Result<Arc<FileLock>> {
        let file_lock = self.state.file_lock_waiting()?;
        self.state.admit(&file_lock, &self.name, &self.token)?;
        Ok(file_lock)
    }
}

impl State {
    /// Admits the token, after it is on disk.
    fn admit(&mut self, file_lock: &FileLock, name: &LockName, token: &FencingToken) -> Result<()> {
        match self.journal.tokens.admit(name, token)? {
            Some(record) => self.append(file_lock, record),
            None => Ok(()),
        }
    }

    /// The lock of the file, which all passes of this handle share. After it is taken anew, records
    /// that others have written are read. `None` if another process or handle has it, and `wait` is
    /// false.
    fn file_lock(&mut self, wait: bool) -> Result<Option<Arc<FileLock>>> {
        if let Some(file_lock) = self.file_lock.upgrade() {
            return Ok(Some(file_lock));
        }
        let Some(file_lock) = FileLock::begin(&self.path, wait)? else { return Ok(None) };
        let file_lock = Arc::new(file_lock);
        self.journal.catch_up(&self.path)?;
        self.file_lock = Arc::downgrade(&file_lock);
        Ok(Some(file_lock))
    }

    fn file_lock_waiting(&mut self) -> Result<Arc<FileLock>> {
        Ok(self.file_lock(true)?.expect("BUG: who waits for the lock of a file has it then"))
    }

    fn append(&mut self, file_lock: &FileLock, record: Record) -> Result<()> {
        if !self.journal.is_writable {
            return Err(io_error("written", &self.path, Io::PermissionDenied.into()));
        }
        if self.journal.clean && self.journal.lines <= 2 * self.journal.tokens.len() + MAX_OUTDATED_RECORDS {
            return self.journal.append(record).map_err(|error| io_error("written", &self.path, error));
        }
        let mut tokens = self.journal.tokens.clone();
        tokens.apply(record);
        // Until this has succeeded, the old file stays in place.
        self.journal = Journal::write(&self.path, &tokens, file_lock)?;
        Ok(())
    }
}
