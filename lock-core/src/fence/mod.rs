//! [`Fence`]: the protected resource's memory of the highest token it has seen.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::{Mutex as Gate, OwnedMutexGuard};

use self::block_on::block_on;
use self::file::FileMemory;
use self::file_lock::FileLock;
use self::highest::HighestTokens;
use crate::filesystem::Filesystem;
use crate::sync::locked;
use crate::words::{FencingToken, LockName, Realm, Result};

mod block_on;
mod file;
mod file_error;
mod file_lock;
mod format;
mod highest;
mod journal;
mod path;
#[cfg(test)]
mod tests;

/// The protected resource's memory of the highest token it has seen, for each name; it refuses a
/// smaller one.
///
/// It stands at the resource, not at the lock: a holder that was paused past its lease cannot know
/// that it is late, but what it writes carries the smaller token. Cloning is cheap and gives the
/// same fence.
///
/// A fence holds across the check **and** the write: [`enter`](Fence::enter) gives a [`Pass`], and
/// while it is out nobody else enters for the same name; a greater token waits until it is dropped.
/// Checking first and writing later would let the old holder write after the new one.
///
/// Tokens compare within one realm only. The first token sets the fence's realm; a token of another
/// is refused, however great its number, until an operator [`adopt`](Fence::adopt)s that realm.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> lock_core::Result<()> {
/// use lock_core::{ErrorKind, Fence, FencingToken, LockName, Realm};
///
/// let fence = Fence::in_memory();
/// let (invoice, realm) = (LockName::new("invoice/42")?, Realm::fresh("example"));
/// let (old, new) = (FencingToken::new(realm.clone(), 7), FencingToken::new(realm, 8));
///
/// let pass = fence.enter(&invoice, &new).await?; // from a later holder
/// // … write …
/// drop(pass);
/// let late = fence.enter(&invoice, &old).await.unwrap_err();
/// assert_eq!(late.kind(), ErrorKind::Fenced);
/// # Ok(()) }
/// ```
///
/// It cannot undo a write that was made before the greater token came, or know of a greater token
/// that never came.
#[derive(Clone)]
pub struct Fence(Arc<Inner>);

struct Inner {
    gates: Mutex<Gates>,
    memory: Memory,
}

enum Memory {
    /// In this process, and lost with it.
    Here(Mutex<HighestTokens>),
    /// In a file.
    File(FileMemory),
}

/// One gate for each name that has a pass or a waiter.
#[derive(Default)]
struct Gates {
    by_name: HashMap<LockName, Weak<Gate<()>>>,
    tidy_at: usize,
}

/// Admits one write, or several. Until it is dropped, nobody else enters for this name.
///
/// Keep it for as long as the write lasts, and no longer. Entering again for the same name while
/// holding it is a deadlock.
#[must_use = "a pass admits only while it is held: keep it until the write is done"]
pub struct Pass {
    name: LockName,
    token: FencingToken,
    // The file's lock is released before the gate, so that the next waiter at the gate finds it
    // free.
    _file_lock: Option<Arc<FileLock>>,
    _gate: OwnedMutexGuard<()>,
}

impl Fence {
    /// A fence that remembers as long as this process lives: for a resource that lives no longer,
    /// and for tests.
    pub fn in_memory() -> Fence {
        Fence::with(Memory::Here(Mutex::default()))
    }

    /// Opens the fence in this file, which is created (readable by its owner only) if it is
    /// missing; its directory must exist. It blocks for as long as that takes.
    ///
    /// An admitted token is on disk before its pass is given out, so that it survives a kill and a
    /// power loss. Entering with the highest token again writes nothing. The file is locked while
    /// any pass is out, for whichever name: other processes and handles wait until this one has
    /// none. Keep the file on a local disk (see [`filesystem`](Fence::filesystem)), and never
    /// remove it, or put an older copy of it back: a fence that forgets admits old holders. It
    /// grows with the number of names, by about 150 bytes each, and opening it reads all of them.
    ///
    /// A user who may only read the file can list the fence, but not enter.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for a file that is no fence, is damaged,
    /// was written by a newer version, or has another path: a hard link, or a mount of this single
    /// file. It is never taken for an empty one. [`Denied`](crate::ErrorKind::Denied) or
    /// [`Unavailable`](crate::ErrorKind::Unavailable) from the file system.
    pub fn open(path: impl AsRef<Path>) -> Result<Fence> {
        Ok(Fence::with(Memory::File(FileMemory::open(path.as_ref(), false)?)))
    }

    /// Opens the fence in this file, as [`open`](Fence::open), but does not create a missing one.
    /// For operators: a mistyped path would give a new fence, which admits everybody.
    ///
    /// # Errors
    ///
    /// As [`open`](Fence::open), and [`InvalidConfig`](crate::ErrorKind::InvalidConfig) if the file
    /// is missing.
    pub fn open_existing(path: impl AsRef<Path>) -> Result<Fence> {
        Ok(Fence::with(Memory::File(FileMemory::open(path.as_ref(), true)?)))
    }

    /// The file system of its file; `None` for a fence in memory. In [`Memory`](Filesystem::Memory)
    /// the fence forgets at a power loss, and then admits earlier holders, whose locks may be
    /// elsewhere. On a [`Shared`](Filesystem::Shared) file system, it depends on that file system
    /// if two machines exclude each other. Opening such a fence logs a warning.
    pub fn filesystem(&self) -> Option<Filesystem> {
        match &self.0.memory {
            Memory::Here(_) => None,
            Memory::File(file) => Some(file.filesystem),
        }
    }

    fn with(memory: Memory) -> Fence {
        Fence(Arc::new(Inner { gates: Mutex::default(), memory }))
    }

    /// Admits the token if no greater one was seen for this name, and remembers it; waits while
    /// another pass for the name is out, first come, first served.
    ///
    /// # Errors
    ///
    /// [`Fenced`](crate::ErrorKind::Fenced) if a greater token was seen, or the token is of a
    /// foreign realm: do not write. With a file, [`Denied`](crate::ErrorKind::Denied) and
    /// [`Unavailable`](crate::ErrorKind::Unavailable) from the file system, and
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) if the file was damaged meanwhile or
    /// there is no tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, no pass is out; the token may have been remembered, which admits
    /// nobody.
    pub async fn enter(&self, name: &LockName, token: &FencingToken) -> Result<Pass> {
        let gate = self.gate(name).lock_owned().await;
        let file_lock = match &self.0.memory {
            Memory::Here(tokens) => admit_here(tokens, name, token)?,
            Memory::File(file) => Some(file.enter(name, token).await?),
        };
        Ok(Pass { name: name.clone(), token: token.clone(), _file_lock: file_lock, _gate: gate })
    }

    /// As [`enter`](Fence::enter), for threads that may block; it needs no runtime.
    ///
    /// # Errors
    ///
    /// As [`enter`](Fence::enter).
    pub fn enter_blocking(&self, name: &LockName, token: &FencingToken) -> Result<Pass> {
        let gate = block_on(self.gate(name).lock_owned());
        let file_lock = match &self.0.memory {
            Memory::Here(tokens) => admit_here(tokens, name, token)?,
            Memory::File(file) => Some(file.enter_blocking(name, token)?),
        };
        Ok(Pass { name: name.clone(), token: token.clone(), _file_lock: file_lock, _gate: gate })
    }

    /// Runs `work` under a pass of its own: `work` is not started if the token is refused, and
    /// nobody else enters for this name until it has ended.
    ///
    /// # Errors
    ///
    /// As [`enter`](Fence::enter); then `work` was not started.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, `work` is dropped at its current await point, and then the pass:
    /// as cancel safe as `work`.
    pub async fn write<F: Future>(&self, name: &LockName, token: &FencingToken, work: F) -> Result<F::Output> {
        let _pass = self.enter(name, token).await?;
        Ok(work.await)
    }

    /// Refuses every smaller token from now on; for the token that breaking a lock used up. It
    /// enters and leaves, and so blocks while a pass for the name is out.
    ///
    /// # Errors
    ///
    /// As [`enter`](Fence::enter).
    pub fn raise(&self, name: &LockName, token: &FencingToken) -> Result<()> {
        self.enter_blocking(name, token).map(drop)
    }

    /// Accepts this realm from now on, and no other; for use after the store was swapped or
    /// restored from a backup. The numbers of all names start anew, unless the fence had this realm
    /// before: then they are what they were. It blocks for as long as the file takes. Adopting the
    /// fence's current realm changes nothing.
    ///
    /// First make sure that no holder of the old realm still writes: for this fence, the two realms
    /// have no order.
    ///
    /// # Errors
    ///
    /// [`Denied`](crate::ErrorKind::Denied), [`Unavailable`](crate::ErrorKind::Unavailable) and
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) from the file.
    pub fn adopt(&self, realm: &Realm) -> Result<()> {
        match &self.0.memory {
            Memory::Here(tokens) => {
                let mut tokens = locked(tokens);
                if let Some(record) = tokens.adopt(realm) {
                    tokens.apply(record);
                }
                Ok(())
            }
            Memory::File(file) => file.adopt(realm),
        }
    }

    /// The highest token seen for this name; `None` if none was seen.
    ///
    /// # Errors
    ///
    /// As [`adopt`](Fence::adopt).
    pub fn highest(&self, name: &LockName) -> Result<Option<FencingToken>> {
        self.with_tokens(|tokens| tokens.highest(name))
    }

    /// The highest token of every name, in the byte order of the names.
    ///
    /// # Errors
    ///
    /// As [`adopt`](Fence::adopt).
    pub fn list(&self) -> Result<Vec<(LockName, FencingToken)>> {
        self.with_tokens(|tokens| tokens.list())
    }

    /// The realm whose tokens it admits; `None` if it has seen no token yet.
    ///
    /// # Errors
    ///
    /// As [`adopt`](Fence::adopt).
    pub fn realm(&self) -> Result<Option<Realm>> {
        self.with_tokens(|tokens| tokens.realm().cloned())
    }

    fn with_tokens<T>(&self, read: impl FnOnce(&HighestTokens) -> T) -> Result<T> {
        match &self.0.memory {
            Memory::Here(tokens) => Ok(read(&locked(tokens))),
            Memory::File(file) => Ok(read(&file.read()?)),
        }
    }

    fn gate(&self, name: &LockName) -> Arc<Gate<()>> {
        locked(&self.0.gates).of(name)
    }
}

fn admit_here(tokens: &Mutex<HighestTokens>, name: &LockName, token: &FencingToken) -> Result<Option<Arc<FileLock>>> {
    let mut tokens = locked(tokens);
    if let Some(record) = tokens.admit(name, token)? {
        tokens.apply(record);
    }
    Ok(None)
}

impl Gates {
    fn of(&mut self, name: &LockName) -> Arc<Gate<()>> {
        if let Some(gate) = self.by_name.get(name).and_then(Weak::upgrade) {
            return gate;
        }
        if self.by_name.len() >= self.tidy_at {
            self.by_name.retain(|_, gate| gate.strong_count() > 0);
            self.tidy_at = 2 * self.by_name.len() + 64;
        }
        let gate = Arc::new(Gate::new(()));
        self.by_name.insert(name.clone(), Arc::downgrade(&gate));
        gate
    }
}

impl Pass {
    /// The name that was entered.
    pub fn name(&self) -> &LockName {
        &self.name
    }

    /// The token that was admitted.
    pub fn token(&self) -> &FencingToken {
        &self.token
    }
}

impl fmt::Debug for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.memory {
            Memory::Here(_) => f.write_str("Fence(in memory)"),
            Memory::File(file) => write!(f, "Fence({})", file.path().display()),
        }
    }
}

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pass").field("name", &self.name).field("token", &self.token).finish()
    }
}
