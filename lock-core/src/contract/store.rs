//! [`LockStore`]: the contract for stores.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

use super::claim::Claim;
use super::renewal_batch::RenewalBatch;
use super::session::Session;
use crate::words::{FencingToken, Guarantees, HeldBy, LockName, Realm, Result};

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

/// What a store keeps for a [`Quorum`](crate::Quorum).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// The realm of the data that it is a part of.
    pub realm: Realm,
    /// The text; `None` if nothing was kept yet.
    pub text: Option<String>,
}

/// What a raise did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RaiseOutcome {
    /// The lease has this token now, and no later lease of this name can have it, or a smaller one.
    Raised,
    /// Nothing changed: this holder does not have the lock, or its token is greater.
    Refused,
}

/// A store's answer to a request.
#[derive(Debug)]
pub enum Attempt {
    /// The claim was granted.
    Granted(Lease),
    /// Somebody else holds the lock.
    Held(Contention),
}

/// A store's grant of a claim.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Lease {
    /// How long the store keeps it if it is not renewed, counted from this request.
    pub ttl: Duration,
    /// Its fencing token, where the store gives one.
    pub token: Option<FencingToken>,
    /// The session that carries it; `None` for a lease with a TTL of its own.
    pub session: Option<Session>,
    /// How far back the store that granted it remembers, read in the same step.
    pub retention: Retention,
}

impl Lease {
    /// A lease with a TTL of its own.
    pub fn new(ttl: Duration, token: Option<FencingToken>, remembers: Retention) -> Lease {
        Lease { ttl, token, session: None, retention: remembers }
    }

    /// A lease that a session carries.
    pub fn on_session(session: Session, token: Option<FencingToken>, remembers: Retention) -> Lease {
        Lease { ttl: session.ttl(), token, session: Some(session), retention: remembers }
    }
}

/// How far back a store remembers what it granted, which decides whether it has a vote in a [`Quorum`](crate::Quorum):
/// a server that forgot its leases would grant to a second holder what the first still believes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// It has forgotten nothing: every write is kept through whatever ends the server.
    Complete,
    /// It may have forgotten what was granted longer ago than this: a server that does not keep every write, and
    /// was started then.
    Since(Duration),
}

/// What a waiter needs to know.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Contention {
    /// Who is in the way.
    pub by: HeldBy,
    /// When to look again although no hint came: when the lease in the way can have ended.
    pub retry_after: Duration,
    /// The store's own mark of what it saw, so that its `wait` cannot miss what comes after.
    pub version: u64,
    /// The session that carries the waiter's place in the queue.
    pub session: Option<Session>,
}

impl Contention {
    /// Held by `by`; look again after `retry_after` at the latest.
    pub fn new(by: HeldBy, look_again: Duration) -> Contention {
        Contention { by, retry_after: look_again, version: 0, session: None }
    }

    /// With the store's own mark of what it saw.
    #[must_use]
    pub fn with_version(mut self, seen: u64) -> Contention {
        self.version = seen;
        self
    }

    /// With the session that carries the waiter's place in the queue.
    #[must_use]
    pub fn on_session(mut self, session: Session) -> Contention {
        self.session = Some(session);
        self
    }
}

/// What a release found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseOutcome {
    /// The claim was held until now.
    Held,
    /// The claim was not held; a place in the queue, if it had one, is gone.
    NotHeld,
}

/// How to break a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakMode {
    /// The holder loses its lease and one token is used up; the name stays blocked until the old lease would have
    /// ended, so that a holder that does not know yet is still alone.
    Revoke,
    /// The name is free at once. Until the old lease would have ended nothing excludes the evicted holder but a fence.
    Now,
}

/// What breaking a lock did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Eviction {
    /// Who was evicted.
    pub evicted: HeldBy,
    /// The token that was used up: raise a fence to it, and it refuses the evicted holder.
    pub token: Option<FencingToken>,
    /// How long the name stays blocked.
    pub free_in: Duration,
}

impl Eviction {
    /// This holder was evicted.
    pub fn new(evicted: HeldBy, token: Option<FencingToken>, free_in: Duration) -> Eviction {
        Eviction { evicted, token, free_in }
    }
}
