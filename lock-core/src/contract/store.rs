//! [`LockStore`]: the contract for stores.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

use super::answer::{Attempt, BreakMode, Contention, Eviction, Lease, RaiseOutcome, ReleaseOutcome, StoredRecord};
use super::claim::Claim;
use super::finding::Finding;
use super::renewal_batch::RenewalBatch;
use crate::words::{Guarantees, HeldBy, LockName, Realm, Result, Share, Space};

/// The contract for stores: single steps only.
///
/// The core does the rest, once for every store: it stamps the clock, bounds each call, loops,
/// waits, retries by holder, withdraws, finishes cancelled calls, and checks the waiter's own
/// session after every wait. A store has no renewal, retry or waiting loop of its own, and trusts
/// no clock but its server's.
///
/// Every check-and-act is **one step on the server** (a script, a transaction, a conditional
/// statement), conditional on the holder. A store must not panic; where a reply never comes, the
/// error says that the effect is unknown ([`Effect::Unknown`](crate::Effect::Unknown)).
///
/// There are no default methods, since a default would hide what a wrapper forgot. The exception is
/// [`close`](LockStore::close), without which nothing is wrong. The conformance suite (the crate
/// `lock-conformance`) proves an implementation.
#[async_trait]
pub trait LockStore: Debug + Send + Sync + 'static {
    /// The guarantees of this store as configured. It must not claim more than the suite can prove.
    fn guarantees(&self) -> Guarantees;

    /// The realm of its tokens.
    fn realm(&self) -> Realm;

    /// Requests the lock, or the [share](Claim::share) of it that the claim asks for: granted if and
    /// only if the holders of the name, this one counted, are no more than the smallest of their
    /// [limits](Share::limit). For a lock that means: if nobody else holds it. The core never asks
    /// for a share that the store does not [offer](Guarantees::offers).
    ///
    /// It is idempotent by holder: a retry gives the same lease with the same
    /// token and a full TTL, and never blocks itself. A claim stays on the session that carries it
    /// for as long as that session is valid, since the holder's belief rests on it. If the lock is
    /// held, the claim enters the store's queue if and only if [`claim.queues()`](Claim::queues)
    /// and the store has a queue; otherwise nothing is written.
    ///
    /// # Errors
    ///
    /// Unavailable, timed out, denied, or a protocol error; contention is no error.
    async fn request(&self, claim: &Claim) -> Result<Attempt>;

    /// Waits for a hint that a new request may succeed. It writes nothing, may return early, may be
    /// dropped, and may pend for ever: the core retries after [`Contention::retry_after`] anyway.
    ///
    /// # Errors
    ///
    /// Any; the core then retries after a while.
    async fn wait(&self, claim: &Claim, held: &Contention) -> Result<()>;

    /// Renews leases and sessions that are still held; it never acquires. Each entry is answered as
    /// soon as its answer is known, and one failure must not keep the others from an answer. An
    /// entry without an answer is unknown.
    ///
    /// # Errors
    ///
    /// Any: the reason why entries stay unanswered, for people.
    async fn renew(&self, batch: &RenewalBatch) -> Result<()>;

    /// Gives back the lease of this claim, and its entry in the queue. It changes nothing of
    /// another holder, and must succeed if the lock is not held. Afterwards nobody holds it; for
    /// `linger` nobody gets it either. The core passes zero to a store that does not offer
    /// [`Linger`](crate::Offer::Linger).
    ///
    /// # Errors
    ///
    /// Unavailable, timed out, denied, or a protocol error.
    async fn release(&self, claim: &Claim, linger: Duration) -> Result<ReleaseOutcome>;

    /// Raises the token of a lease, so that the members of a [`Quorum`](crate::Quorum) can agree on
    /// one. `None` for a store whose server chooses the tokens itself, such as revisions.
    fn token_raiser(&self) -> Option<&dyn TokenRaiser>;

    /// Converts a holder's share to another one. `None` for a store that offers neither
    /// [`Downgrade`](crate::Offer::Downgrade) nor [`Upgrade`](crate::Offer::Upgrade).
    fn converter(&self) -> Option<&dyn Converter>;

    /// Publishes values of holders. `None` for a store that does not offer
    /// [`Publish`](crate::Offer::Publish).
    fn publisher(&self) -> Option<&dyn Publisher>;

    /// The holders of this name; empty if it is free. The core asks for the space of permits only
    /// where they are [offered](crate::Offer::Permits), here and in [`list`](LockStore::list).
    ///
    /// # Errors
    ///
    /// As for [`request`](LockStore::request).
    async fn inspect(&self, name: &LockName, space: Space) -> Result<Vec<HeldBy>>;

    /// Up to `limit` held names of this space that come after `after`, in their byte order, with
    /// their holders.
    ///
    /// # Errors
    ///
    /// As for [`request`](LockStore::request).
    async fn list(&self, space: Space, after: Option<&LockName>, limit: usize) -> Result<Vec<(LockName, Vec<HeldBy>)>>;

    /// Ends the lease of the holder that was `seen`, and of no other; `None` if that holder no
    /// longer has it.
    ///
    /// # Errors
    ///
    /// As for [`request`](LockStore::request).
    async fn break_lock(&self, name: &LockName, seen: &HeldBy, how: BreakMode) -> Result<Option<Eviction>>;

    /// Starts a new realm, after the store's data was restored from a backup.
    ///
    /// # Errors
    ///
    /// Invalid configuration where the server itself decides the realm, which then changes by
    /// itself at a restore.
    async fn new_realm(&self) -> Result<Realm>;

    /// Looks at the server, its settings and its data, as they are now, for an operator: a
    /// [`Finding`] for each fact that the store knows to look at, also if it is as it should be. It
    /// changes no lock.
    ///
    /// A part that does not answer, such as one of several servers, is a finding. The servers are
    /// asked at the same time, since the core limits the whole call.
    ///
    /// # Errors
    ///
    /// As for [`request`](LockStore::request), only if nothing answers at all.
    ///
    /// # Cancel safety
    ///
    /// It leaves at most a session without a lease, which ends by itself.
    async fn diagnose(&self) -> Result<Vec<Finding>>;

    /// Closes what the store has open, since no further calls are expected: a file is closed, so
    /// that it is complete by itself. [`Locks::close`](crate::Locks::close) calls it last. It ends
    /// no lease, and forbids nothing: others may share this store, and a later call opens again
    /// what it needs.
    async fn close(&self) {}
}

/// Raises the token of a lease, so that the members of a [`Quorum`](crate::Quorum) can agree on
/// one.
#[async_trait]
pub trait TokenRaiser: Send + Sync {
    /// Raises the token of this claim's lease to `number`. It is one step on the server: if this
    /// holder has the lock, and the token of its lease is not greater than `number`, then its token
    /// becomes `number`, and every later lease of this name gets a greater one. Otherwise nothing
    /// changes.
    ///
    /// It does not extend the lease, and is idempotent: a retry with the same number gives the same
    /// answer.
    ///
    /// # Errors
    ///
    /// As for [`LockStore::request`]; a protocol error for a number that no greater one can follow.
    async fn raise(&self, claim: &Claim, number: u64) -> Result<RaiseOutcome>;

    /// The record that this store keeps for a quorum that it is a member of; `None` if it cannot
    /// keep one. A quorum whose members all keep a record can be opened by any majority of them;
    /// without it, all of them must be up.
    fn record_store(&self) -> Option<&dyn RecordStore>;
}

/// Record that a store keeps for a [`Quorum`](crate::Quorum): a text that names its members.
///
/// The record is a part of the store's data: it lives as long as the data, survives the same
/// faults, and is lost or replaced together with them.
#[async_trait]
pub trait RecordStore: Send + Sync {
    /// The current record. The realm and the text are read in one step on the server.
    ///
    /// # Errors
    ///
    /// As for [`LockStore::request`].
    async fn read_record(&self) -> Result<StoredRecord>;

    /// Replaces the record by `text`, if the record and the realm are still those of `before`: one
    /// step on the server. Returns true if the record is `text` afterwards, also if it was already,
    /// as after a lost reply.
    ///
    /// # Errors
    ///
    /// As for [`LockStore::request`].
    async fn replace_record(&self, before: &StoredRecord, text: &str) -> Result<bool>;
}

/// Converts a holder's share to another one, such as a writer's to a reader's.
#[async_trait]
pub trait Converter: Send + Sync {
    /// Converts the share of this claim's lease to `to`. It is one step on the server, and never
    /// waits. `None` if other holders are in the way, or the claim does not hold the name: nothing
    /// changed.
    ///
    /// A downgrade keeps the token's number and the place in the queue. An upgrade takes a fresh
    /// number, since others had greater ones meanwhile. It is idempotent by holder and `to`.
    ///
    /// # Errors
    ///
    /// As for [`LockStore::request`].
    async fn convert(&self, claim: &Claim, to: Share) -> Result<Option<Lease>>;
}

/// Publishes values of holders: what a holder shows to everybody, for as long as it holds.
#[async_trait]
pub trait Publisher: Send + Sync {
    /// Replaces the value of this claim's lease, as [`HeldBy::value`] shows it. Returns false if
    /// the claim does not hold the name: nothing changed. It is one step on the server, conditional
    /// on the holder; renewals keep the value.
    ///
    /// # Errors
    ///
    /// As for [`LockStore::request`].
    async fn publish(&self, claim: &Claim, value: &[u8]) -> Result<bool>;

    /// Waits for a hint that holder or value may differ from what was `seen`. It writes nothing,
    /// may return early, may be dropped, and may pend for ever, as [`LockStore::wait`].
    ///
    /// # Errors
    ///
    /// Any; the core then looks again after a while.
    async fn changed(&self, name: &LockName, seen: &[HeldBy]) -> Result<()>;
}
