//! A store in memory that promises something else, or keeps no record.

use std::time::Duration;

use lock_core::*;

/// A store in memory with other guarantees. It raises tokens if its records survive a crash.
#[derive(Debug)]
pub(crate) struct Promising {
    memory: MemoryStore,
    guarantees: Guarantees,
    keeps_record: bool,
}

impl Promising {
    pub(crate) fn new(memory: MemoryStore, guarantees: Guarantees) -> Promising {
        Promising { memory, guarantees, keeps_record: true }
    }

    /// With the guarantees that it has; it raises tokens, and keeps no record for a quorum.
    pub(crate) fn without_record(memory: MemoryStore) -> Promising {
        let guarantees = memory.guarantees();
        Promising { memory, guarantees, keeps_record: false }
    }
}

#[async_trait]
impl TokenRaiser for Promising {
    async fn raise(&self, claim: &Claim, number: u64) -> Result<RaiseOutcome> {
        self.memory.raise(claim, number).await
    }

    fn record_store(&self) -> Option<&dyn RecordStore> {
        None
    }
}

#[async_trait]
impl LockStore for Promising {
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
        self.memory.wait(claim, held).await
    }

    async fn renew(&self, batch: &RenewalBatch) -> Result<()> {
        self.memory.renew(batch).await
    }

    async fn release(&self, claim: &Claim, linger: Duration) -> Result<ReleaseOutcome> {
        self.memory.release(claim, linger).await
    }

    fn token_raiser(&self) -> Option<&dyn TokenRaiser> {
        if !self.keeps_record {
            return Some(self);
        }
        self.guarantees.records_survive.contains(Fault::Crash.into()).then_some(&self.memory as &dyn TokenRaiser)
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
