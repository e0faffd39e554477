//! A store that a test can slow down, stop and count, around the store in memory.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lock_core::*;
use tokio::sync::watch;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// What happens to the next calls of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fate {
    /// They reach the store, and the answer comes.
    #[default]
    Answered,
    /// They reach the store, and the answer comes this much later.
    Late(Duration),
    /// They reach the store this much later.
    Delayed(Duration),
    /// They reach the store, and the answer never comes.
    Mute,
    /// They do not reach the store, and fail at once.
    Refused,
    /// They reach the store, and the connection breaks before the answer.
    Broken,
}

#[derive(Debug)]
pub(crate) struct Calls {
    pub(crate) count: AtomicUsize,
    fate: watch::Sender<(u32, Fate)>,
    used: AtomicU32,
}

impl Calls {
    fn new() -> Calls {
        Calls {
            count: AtomicUsize::new(0),
            fate: watch::channel((u32::MAX, Fate::Answered)).0,
            used: AtomicU32::new(0),
        }
    }

    /// All calls from now on.
    pub(crate) fn all(&self, fate: Fate) {
        self.next(u32::MAX, fate);
    }

    /// The next `calls` calls only.
    pub(crate) fn next(&self, calls: u32, fate: Fate) {
        self.used.store(0, Ordering::SeqCst);
        self.fate.send_replace((calls, fate));
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    fn fate(&self) -> Fate {
        self.count.fetch_add(1, Ordering::SeqCst);
        let (calls, fate) = *self.fate.borrow();
        if self.used.fetch_add(1, Ordering::SeqCst) < calls { fate } else { Fate::Answered }
    }

    async fn run<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let fail = |effect| Err(Error::new(ErrorKind::Unavailable, effect, "the test broke this call"));
        match self.fate() {
            Fate::Answered => call.await,
            Fate::Late(time) => {
                let answer = call.await;
                tokio::time::sleep(time).await;
                answer
            }
            Fate::Delayed(time) => {
                tokio::time::sleep(time).await;
                call.await
            }
            Fate::Mute => {
                drop(call.await);
                std::future::pending().await
            }
            Fate::Refused => fail(Effect::None),
            Fate::Broken => {
                drop(call.await);
                fail(Effect::Unknown)
            }
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Hooked(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) memory: MemoryStore,
    pub(crate) request: Calls,
    pub(crate) renew: Calls,
    pub(crate) release: Calls,
    pub(crate) waits: AtomicUsize,
    pub(crate) most_waits: AtomicUsize,
    pub(crate) batches: Mutex<Vec<usize>>,
    polled: bool,
}

impl std::ops::Deref for Hooked {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Hooked {
    pub(crate) fn new(memory: MemoryStore) -> Hooked {
        Hooked::build(memory, false)
    }

    /// Without a queue of its own.
    pub(crate) fn polled(memory: MemoryStore) -> Hooked {
        Hooked::build(memory, true)
    }

    fn build(memory: MemoryStore, polled: bool) -> Hooked {
        Hooked(Arc::new(Inner {
            memory,
            request: Calls::new(),
            renew: Calls::new(),
            release: Calls::new(),
            waits: AtomicUsize::new(0),
            most_waits: AtomicUsize::new(0),
            batches: Mutex::default(),
            polled,
        }))
    }

    pub(crate) fn locks(&self) -> Locks {
        Locks::new(self.clone())
    }
}

struct Waits<'a>(&'a Inner);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waits.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl LockStore for Hooked {
    fn guarantees(&self) -> Guarantees {
        let guarantees = self.memory.guarantees();
        if self.polled { guarantees.waiting(WaitStyle::Polled) } else { guarantees }
    }

    fn realm(&self) -> Realm {
        self.memory.realm()
    }

    async fn request(&self, claim: &Claim) -> Result<Attempt> {
        self.request.run(self.memory.request(claim)).await
    }

    async fn wait(&self, claim: &Claim, held: &Waiting) -> Result<()> {
        let now = self.waits.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_waits.fetch_max(now, Ordering::SeqCst);
        let _counted = Waits(self);
        self.memory.wait(claim, held).await
    }

    async fn renew(&self, batch: &Renewals) {
        self.batches.lock().unwrap().push(batch.len());
        let call = self.memory.renew(batch);
        match self.renew.fate() {
            // An answer counts when it is given: what must not arrive in time is not asked.
            Fate::Mute => std::future::pending().await,
            Fate::Late(time) | Fate::Delayed(time) => {
                tokio::time::sleep(time).await;
                call.await;
            }
            Fate::Answered => call.await,
            Fate::Refused | Fate::Broken => {
                batch.fail(Error::new(ErrorKind::Unavailable, Effect::Unknown, "the test broke this call"));
            }
        }
    }

    async fn release(&self, claim: &Claim) -> Result<Released> {
        self.release.run(self.memory.release(claim)).await
    }

    async fn inspect(&self, name: &LockName) -> Result<Option<HeldBy>> {
        self.memory.inspect(name).await
    }

    async fn list(&self, after: Option<&LockName>, limit: usize) -> Result<Vec<(LockName, HeldBy)>> {
        self.memory.list(after, limit).await
    }

    async fn break_lock(&self, name: &LockName, seen: &HeldBy, how: Break) -> Result<Option<Broken>> {
        self.memory.break_lock(name, seen, how).await
    }

    async fn new_realm(&self) -> Result<Realm> {
        self.memory.new_realm().await
    }
}
