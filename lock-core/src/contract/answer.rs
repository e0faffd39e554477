//! What a store answers: [`Attempt`], [`Lease`], [`Contention`] and the outcomes of its other steps.

use std::time::Duration;

use super::session::Session;
use crate::words::{FencingToken, HeldBy, Realm};

/// The record that a store keeps for a [`Quorum`](crate::Quorum), with the realm of its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// The realm of the data that it is a part of.
    pub realm: Realm,
    /// The text; `None` if nothing was kept yet.
    pub text: Option<String>,
}

/// The outcome of a raise.
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
    /// How far back the store that granted it remembers its grants, read in the same step.
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

/// The answer that somebody else holds the lock, with what a waiter needs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Contention {
    /// The holder that is in the way.
    pub by: HeldBy,
    /// Time after which to ask again although no hint came: the lease in the way can have ended then.
    pub retry_after: Duration,
    /// The store's own version of what it saw, so that its `wait` misses nothing that came after.
    pub version: u64,
    /// The session that carries the waiter's place in the queue.
    pub session: Option<Session>,
}

impl Contention {
    /// Held by `by`; to be asked again after `retry_after` at the latest.
    pub fn new(by: HeldBy, retry_after: Duration) -> Contention {
        Contention { by, retry_after, version: 0, session: None }
    }

    /// With the store's own version of what it saw.
    #[must_use]
    pub fn with_version(mut self, version: u64) -> Contention {
        self.version = version;
        self
    }

    /// With the session that carries the waiter's place in the queue.
    #[must_use]
    pub fn on_session(mut self, session: Session) -> Contention {
        self.session = Some(session);
        self
    }
}

/// The outcome of a release.
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

/// The outcome of breaking a lock.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Eviction {
    /// The holder that was evicted.
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
