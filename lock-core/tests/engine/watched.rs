//! A store around the memory store that a test can slow down, stop and count.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lock_conformance::faults::Faulty;
use lock_core::*;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// The store of a test. It derefs to [`Faulty`], which injects its faults.
#[derive(Clone)]
pub(crate) struct Watched {
    pub(crate) memory: MemoryStore,
    pub(crate) seen: Arc<Seen>,
    faulty: Arc<Faulty>,
}

/// Counts of the calls that reached the store.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) most_waits: AtomicUsize,
    pub(crate) most_releases: AtomicUsize,
    pub(crate) releases_take_a_moment: AtomicBool,
    pub(crate) batches: Mutex<Vec<usize>>,
    waits: AtomicUsize,
    releases: AtomicUsize,
}

impl Watched {
    pub(crate) fn new(memory: MemoryStore) -> Watched {
        let queued = memory.guarantees();
        Watched::promising(memory, queued)
    }

    /// A store without a queue.
    pub(crate) fn polled(memory: MemoryStore) -> Watched {
        let polled = memory.guarantees().waiting(WaitStyle::Polled);
        Watched::promising(memory, polled)
    }

    fn promising(memory: MemoryStore, guarantees: Guarantees) -> Watched {
        let seen = Arc::new(Seen::default());
        let watching = Watching { memory: memory.clone(), seen: seen.clone(), guarantees };
        Watched { memory, seen, faulty: Faulty::new(Arc::new(watching)) }
    }

    pub(crate) fn locks(&self) -> Locks {
        self.builder().build()
    }

    pub(crate) fn builder(&self) -> LocksBuilder {
        Locks::builder_of(self.faulty.clone())
    }
}

impl Deref for Watched {
    type Target = Faulty;

    fn deref(&self) -> &Faulty {
        &self.faulty
    }
}

#[derive(Debug)]
struct Watching {
    memory: MemoryStore,
    seen: Arc<Seen>,
    guarantees: Guarantees,
}

/// One call in flight.
struct InFlight<'a>(&'a AtomicUsize);

impl InFlight<'_> {
    fn begin<'a>(count: &'a AtomicUsize, most: &AtomicUsize) -> InFlight<'a> {
        most.fetch_max(count.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        InFlight(count)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl LockStore for Watching {
    fn guarantees(&self) -> Guarantees {
        self.guarantees
    }

    fn realm(&self) -> Realm {
        self.memory.realm()
    }

    async fn request(&self, claim: &Claim) -> Result<Attempt> {
        self.memory.request(claim).await
    }

    async fn wait(&self, claim: &Claim, held: &Contention) -> Result<()> {
        let _counted = InFlight::begin(&self.seen.waits, &self.seen.most_waits);
        self.memory.wait(claim, held).await
    }

    async fn renew(&self, batch: &RenewalBatch) -> Result<()> {
        self.seen.batches.lock().unwrap().push(batch.len());
        self.memory.renew(batch).await
    }

    async fn release(&self, claim: &Claim, linger: Duration) -> Result<ReleaseOutcome> {
        let _counted = InFlight::begin(&self.seen.releases, &self.seen.most_releases);
        if self.seen.releases_take_a_moment.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        self.memory.release(claim, linger).await
    }

    fn token_raiser(&self) -> Option<&dyn TokenRaiser> {
        self.memory.token_raiser()
    }

    fn converter(&self) -> Option<&dyn Converter> {
        self.memory.converter()
    }

    fn publisher(&self) -> Option<&dyn Publisher> {
        self.memory.publisher()
    }

    async fn inspect(&self, name: &LockName, space: Space) -> Result<Vec<HeldBy>> {
        self.memory.inspect(name, space).await
    }

    async fn list(&self, space: Space, after: Option<&LockName>, limit: usize) -> Result<Vec<(LockName, Vec<HeldBy>)>> {
        self.memory.list(space, after, limit).await
    }

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        self.memory.diagnose().await
    }

    async fn break_lock(&self, name: &LockName, seen: &HeldBy, how: BreakMode) -> Result<Option<Eviction>> {
        self.memory.break_lock(name, seen, how).await
    }

    async fn new_realm(&self) -> Result<Realm> {
        self.memory.new_realm().await
    }
}
