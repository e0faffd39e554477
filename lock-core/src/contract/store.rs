//! [`LockStore`]: the contract for stores.

use std::fmt::Debug;

use async_trait::async_trait;

use super::answer::{Attempt, BreakMode, Contention, Eviction, RaiseOutcome, ReleaseOutcome, StoredRecord};
use super::claim::Claim;
use super::renewal_batch::RenewalBatch;
use crate::words::{Guarantees, HeldBy, LockName, Realm, Result};

/// The contract for stores: single steps only.
///
/// The core stamps the clock, bounds each call, loops, waits, retries by holder, withdraws, finishes what was
/// cancelled, and checks the waiter's own session after every wait: once, for every store. A store has no renewal,
/// retry or waiting loop of its own, and believes no clock but its server's.
///
/// Every check-and-act is **one step on the server** (a script, a transaction, a conditional statement), conditional on
/// the holder. A store must not panic; where a reply never comes, the error says that the effect is unknown
/// ([`Effect::Unknown`](crate::Effect::Unknown)).
///
/// There are no default methods, since a default would hide what a wrapper forgot; but for
/// [`close`](LockStore::close), without which nothing is wrong. The conformance suite (the crate
/// `lock-conformance`) proves an implementation.
#[async_trait]
pub trait LockStore: Debug + Send + Sync + 'static {
    /// What this store, as configured, promises; it must not claim more than the suite can prove.
    fn guarantees(&self) -> Guarantees;

    /// Whose tokens these are.
    fn realm(&self) -> Realm;

    /// Asks for the lock. Idempotent by holder: asking again gives the same lease with the same token and a full TTL,
    /// and never blocks itself. A claim stays on the session that carries it for as long as that is valid, since its
    /// holder believes by that one. If the lock is held, the claim enters the store's queue if and only if
    /// [`claim.queues()`](Claim::queues) and the store has one; else nothing is written.
    ///
    /// # Errors
    ///
    /// Unavailable, timed out, denied, or a protocol error; contention is no error.
    async fn request(&self, claim: &Claim) -> Result<Attempt>;

    /// Waits for a hint that a new request may succeed. It writes nothing, may return early, may be dropped, and may
    /// pend for ever: the core looks again after [`Contention::retry_after`] anyway.
    ///
    /// # Errors
    ///
    /// Any; the core then looks again after a while.
    async fn wait(&self, claim: &Claim, held: &Contention) -> Result<()>;

    /// Renews leases and sessions that are still held; never acquires. Each entry is answered as soon as its answer is
    /// known; what is not answered is unknown, and [`RenewalBatch::fail`] may say why.
    async fn renew(&self, batch: &RenewalBatch);

    /// Gives back what this claim holds, and its place in the queue; touches nothing of another holder's. It must
    /// succeed at a lock that is not held.
    ///
    /// # Errors
    ///
    /// Unavailable, timed out, denied, or a protocol error.
    async fn release(&self, claim: &Claim) -> Result<ReleaseOutcome>;

    /// The step by which a [`Quorum`](crate::Quorum) makes one token of its members' counters, if this store has it.
    /// A store whose tokens are given by the server itself, such as revisions, has not.
    fn token_raiser(&self) -> Option<&dyn TokenRaiser>;

    /// Who holds the lock; `None` if it is free.
    ///
    /// # Errors
    ///
    /// As for [`request`](LockStore::request).
    async fn inspect(&self, name: &LockName) -> Result<Option<HeldBy>>;

    /// Up to `limit` held locks whose names come after `after`, in the byte order of their names.
    ///
    /// # Errors
    ///
    /// As for [`request`](LockStore::request).
    async fn list(&self, after: Option<&LockName>, limit: usize) -> Result<Vec<(LockName, HeldBy)>>;

    /// Ends the lease of the holder that was seen, and of nobody else; `None` if that holder no longer has it.
    ///
    /// # Errors
    ///
    /// As for [`request`](LockStore::request).
    async fn break_lock(&self, name: &LockName, seen: &HeldBy, how: BreakMode) -> Result<Option<Eviction>>;

    /// Begins a new realm, after the store's data was restored from a backup.
    ///
    /// # Errors
    ///
    /// Invalid configuration where the server itself decides the realm, which then changes by itself at a restore.
    async fn new_realm(&self) -> Result<Realm>;

    /// Puts away what is open, since nothing more is expected: a file is closed, so that it is whole by itself.
    /// [`Locks::close`](crate::Locks::close) does it at its end. It ends no lease, and forbids nothing: others may share
    /// this store, and a step that comes all the same opens again what it needs.
    async fn close(&self) {}
}

/// The step by which a [`Quorum`](crate::Quorum) makes one token of its members' counters.
#[async_trait]
pub trait TokenRaiser: Send + Sync {
    /// Raises the token of the lease that this claim has to `number`. One step on the server: if this holder has the
    /// lock, and the token of its lease is not greater than `number`, then its token becomes `number`, and every later
    /// lease of this name gets a greater one. Else nothing changes.
    ///
    /// It moves no end of a lease, and asking again with the same number gives the same answer.
    ///
    /// # Errors
    ///
    /// As for [`LockStore::request`]; a protocol error for a number that no other could follow.
    async fn raise(&self, claim: &Claim, number: u64) -> Result<RaiseOutcome>;

    /// What this store keeps for a quorum that it is a member of, if it can. A quorum of members that all keep it can
    /// be opened by any majority of them; without it, all of them must be there.
    fn record_store(&self) -> Option<&dyn RecordStore>;
}

/// A text that a store keeps for a [`Quorum`](crate::Quorum): who its members are.
///
/// It is a part of the store's data: it lives as long as they do, survives what they survive, and whatever loses or
/// replaces them does so with it.
#[async_trait]
pub trait RecordStore: Send + Sync {
    /// What it keeps now. The realm and the text are read in one step on the server.
    ///
    /// # Errors
    ///
    /// As for [`LockStore::request`].
    async fn read_record(&self) -> Result<StoredRecord>;

    /// Keeps `text` from now on, if it still keeps what it did `before`, and is still of that realm: one step on the
    /// server. Whether it does; also true if it kept `text` already, as after a reply that was lost.
    ///
    /// # Errors
    ///
    /// As for [`LockStore::request`].
    async fn replace_record(&self, before: &StoredRecord, text: &str) -> Result<bool>;
}
