//! [`FileMemory`]: the memory of a fence in a file.
//!
//! The file is text: a line with the format's version, then one [`Record`] a line, as a checksum and JSON. Marks are
//! appended, one write and one sync each; when most of them are outdated, the file is written anew beside itself and
//! renamed. Whoever writes holds the lock of the file, and knows that this very file stands at the path: a lock file
//! beside it could be taken away, and then two would write. The file that takes its place is locked before it does.

use std::io::ErrorKind as Io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::thread;

use tokio::sync::{Mutex, OwnedMutexGuard, oneshot};

use super::block_on::block_on;
use super::file_error::{OpenError, interrupted, invalid, io_error, missing};
use super::file_lock::FileLock;
use super::highest::{HighestTokens, Record};
use super::journal::Journal;
use super::path::{create, resolve};
use crate::filesystem::Filesystem;
use crate::words::{FencingToken, LockName, Realm, Result};

/// Outdated tokens that a file may have before it is written anew, beside as many as it has names.
const MAX_OUTDATED_RECORDS: usize = 1_000;

/// The memory of a fence in a file.
pub(super) struct FileMemory {
    path: PathBuf,
    pub(super) filesystem: Filesystem,
    // A tokio mutex, so that at most one thread for each fence waits for other processes.
    state: Arc<Mutex<State>>,
}

struct State {
    path: PathBuf,
    journal: Journal,
    file_lock: Weak<FileLock>,
}

impl FileMemory {
    /// The fence at `path`, which is made if it is missing, unless it must exist.
    pub(super) fn open(path: &Path, existing: bool) -> Result<FileMemory> {
        let path = resolve(path)?;
        let journal = match Journal::open(&path) {
            Err(OpenError::Missing) if existing => {
                return Err(invalid(format!("there is no fence {}", path.display())));
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
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|_| invalid("a fence in a file is entered inside a tokio runtime, or with enter_blocking"))?;
        let state = self.state.clone().lock_owned().await;
        let (name, token) = (name.clone(), token.clone());
        let mut entry = Entry { state, name, token };
        let at_once = runtime.spawn_blocking(move || (entry.try_enter(), entry)).await;
        let (entered, mut entry) = at_once.map_err(|_| interrupted())?;
        if let Some(file_lock) = entered? {
            return Ok(file_lock);
        }
        // Another process may keep its pass for long, and a runtime does not end before its blocking tasks: so this
        // waits on a thread that nobody waits for.
        let (tell, told) = oneshot::channel();
        let waiting = thread::Builder::new().name("leasehold-fence".to_owned());
        waiting
            .spawn(move || tell.send(entry.enter_waiting()))
            .map_err(|error| io_error("entered", &self.path, error))?;
        told.await.map_err(|_| interrupted())?
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

    /// What the file says now. It needs no lock: what another process has not finished writing counts for nothing yet.
    pub(super) fn read(&self) -> Result<HighestTokens> {
        Ok(Journal::open(&self.path).map_err(|error| missing(error, &self.path))?.tokens)
    }

    fn state(&self) -> OwnedMutexGuard<State> {
        block_on(self.state.clone().lock_owned())
    }
}

/// Somebody who enters, with the turn to do so.
struct Entry {
    state: OwnedMutexGuard<State>,
    name: LockName,
    token: FencingToken,
}

impl Entry {
    /// Enters unless another process or handle is in the way.
    fn try_enter(&mut self) -> Result<Option<Arc<FileLock>>> {
        match self.state.file_lock(false)? {
            Some(file_lock) => self.state.admit(&file_lock, &self.name, &self.token).map(|()| Some(file_lock)),
            None => Ok(None),
        }
    }

    /// Enters as soon as nobody else is in the way.
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

    /// The lock of the file, shared by all passes of this handle; when it was free in between, others may have written.
    /// `None` if another process or handle has it, and this shall not wait.
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
        // Until it has succeeded, what is in the file is what was there before.
        self.journal = Journal::write(&self.path, &tokens, file_lock)?;
        Ok(())
    }
}
