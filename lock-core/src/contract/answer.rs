//! The answers of a store: [`Attempt`], [`Lease`], [`Contention`] and the outcomes of its other
//! steps.

use std::time::Duration;

use super::session::Session;
use crate::words::{FencingToken, HeldBy, Realm};

/// The record that a store keeps for a [`Quorum`](crate::Quorum), with the realm of its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// The realm of the data that the record is a part of.
    pub realm: Realm,
    /// The text; `None` if nothing is stored yet.
    pub text: Option<String>,
}

/// Outcome of a raise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RaiseOutcome {
    /// The lease has this token now, and every later lease of this name gets a greater one.
    Raised,
    /// Nothing changed: this holder does not have the lock, or its token is greater.
    Refused,
}

/// A store's answer to a request.
#[derive(Debug)]
pub enum Attempt {
    /// The claim was granted.
    Granted(Lease),
    /// Another holder has the lock.
    Held(Contention),
}

/// A store's grant of a claim.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Lease {
    /// Time for which the store keeps the lease if it is not renewed, counted from this request.
    pub ttl: Duration,
    /// Its fencing token, where the store issues one.
    pub token: Option<FencingToken>,
    /// The session that carries it; `None` for a lease with a TTL of its own.
    pub session: Option<Session>,
    /// Retention of the store that granted it, read in the same step.
    pub retention: Retention,
}

impl Lease {
    /// A lease with a TTL of its own.
    pub fn new(ttl: Duration, token: Option<FencingToken>, retention: Retention) -> Lease {
        Lease { ttl, token, session: None, retention }
    }

    /// A lease that a session carries.
    pub fn on_session(session: Session, token: Option<FencingToken>, retention: Retention) -> Lease {
        Lease { ttl: session.ttl(), token, session: Some(session), retention }
    }
}

/// How far back a store remembers its grants. It decides if the store has a vote in a
/// [`Quorum`](crate::Quorum): a server that forgot its leases would grant to a second holder the
/// lock that the first still believes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// It has forgotten nothing: every write survives whatever ends the server.
    Complete,
    /// It may have forgotten grants that are older than this: a server that does not persist every
    /// write, and was started this long ago.
    Since(Duration),
}

/// Answer that another holder has the lock, with the details that a waiter needs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Contention {
    /// The holder that has the lock.
    pub by: HeldBy,
    /// Time after which to retry without a hint: the current lease can have ended by then.
    pub retry_after: Duration,
    /// The store's own version of the state that it saw, so that its `wait` misses no later change.
    pub version: u64,
    /// The session that carries the waiter's entry in the queue.
    pub session: Option<Session>,
}

impl Contention {
    /// The lock is held by `by`; retry after `retry_after` at the latest.
    pub fn new(by: HeldBy, retry_after: Duration) -> Contention {
        Contention { by, retry_after, version: 0, session: None }
    }

    /// With the store's own version of the state that it saw.
    #[must_use]
    pub fn with_version(mut self, version: u64) -> Contention {
        self.version = version;
        self
    }

    /// With the session that carries the waiter's entry in the queue.
    #[must_use]
    pub fn on_session(mut self, session: Session) -> Contention {
        self.session = Some(session);
        self
    }
}

/// Outcome of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseOutcome {
    /// The claim was held until now.
    Held,
    /// The claim was not held. Its entry in the queue, if it had one, is removed.
    NotHeld,
}

/// How to break a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakMode {
    /// The holder loses its lease and one token is used up. The name stays blocked until the old
    /// lease would have ended, so that a holder that does not yet know of it is still alone.
    Revoke,
    /// The name is free at once. Until the old lease would have ended, only a fence excludes the
    /// evicted holder.
    Now,
}

/// Outcome of breaking a lock.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Eviction {
    /// The holder that was evicted.
    pub evicted: HeldBy,
    /// The token that was used up. A fence that is raised to it refuses the evicted holder.
    pub token: Option<FencingToken>,
    /// Time for which the name stays blocked.
    pub free_in: Duration,
}

impl Eviction {
    /// Eviction of this holder.
    pub fn new(evicted: HeldBy, token: Option<FencingToken>, free_in: Duration) -> Eviction {
        Eviction { evicted, token, free_in }
    }
}
