//! [`Session`]: the liveness link that carries leases.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::claim::WeakClaim;
use crate::deadline::Deadline;
use crate::engine::Schedule;
use crate::sync::locked;
use crate::{Claim, Clock, Holder, LossReason, Moment, observe};

/// A liveness link that carries leases: an etcd lease, a ZooKeeper session. A lease with a TTL of its own is a session
/// of one, which the core makes by itself.
///
/// A store opens a session, puts claims on it with [`carry`](Session::carry) *before* it writes anything for them, and
/// gives it back with each lease. The core renews it while it carries a claim, and loses all its leases when it ends.
/// Cloning is cheap and gives the same session.
#[derive(Clone)]
pub struct Session(Arc<SessionInner>);

/// The inside of a session.
pub(crate) struct SessionInner {
    of: Kind,
    ttl: Duration,
    clock: Clock,
    deadline: Deadline,
    schedule: Mutex<Schedule>,
}

enum Kind {
    Single(Claim),
    Shared { key: u64, carried: Mutex<HashMap<Holder, WeakClaim>> },
}

/// A session that is being opened: it remembers when the request for it was sent.
#[derive(Debug)]
pub struct PendingSession {
    clock: Clock,
    sent: Moment,
}

impl Session {
    /// Begins to open a session: call it *before* the request leaves.
    pub fn start(clock: &Clock) -> PendingSession {
        PendingSession { clock: clock.clone(), sent: clock.now() }
    }

    /// The session of a lease with a TTL of its own.
    pub(crate) fn single(claim: Claim, clock: &Clock, sent: Moment, ttl: Duration) -> Session {
        Session::new(Kind::Single(claim), clock, sent, ttl)
    }

    fn new(of: Kind, clock: &Clock, sent: Moment, ttl: Duration) -> Session {
        Session(Arc::new(SessionInner {
            of,
            ttl,
            clock: clock.clone(),
            deadline: Deadline::until(clock.valid_until(sent, ttl)),
            schedule: Mutex::new(Schedule::renewed_at(sent)),
        }))
    }

    pub(crate) fn shared(carrier: Arc<SessionInner>) -> Session {
        Session(carrier)
    }

    /// The store's own number for this session; 0 for a session of one.
    pub fn key(&self) -> u64 {
        match &self.0.of {
            Kind::Single(_) => 0,
            Kind::Shared { key, .. } => *key,
        }
    }

    /// The TTL that the store granted.
    pub fn ttl(&self) -> Duration {
        self.0.ttl
    }

    /// How much longer it may be believed in; zero if it is over.
    pub fn remaining(&self) -> Duration {
        self.0.clock.until(self.0.deadline.moment())
    }

    /// Whether it may be believed in now.
    pub fn is_valid(&self) -> bool {
        self.loss().is_none()
    }

    /// Puts a claim on this session: from now on what the store keeps for it is no orphan.
    pub fn carry(&self, claim: &Claim) {
        if let Kind::Shared { carried, .. } = &self.0.of {
            if claim.is_settled() {
                return;
            }
            locked(carried).insert(claim.holder(), claim.downgrade());
            claim.carried_by(&self.0);
        }
    }

    /// The claims on this session that somebody still wants or withdraws. What the store keeps on the session beyond
    /// these is an orphan, to be deleted in the next renewal round.
    pub fn claims(&self) -> Vec<Claim> {
        match &self.0.of {
            Kind::Single(claim) => vec![claim.clone()],
            Kind::Shared { carried, .. } => locked(carried).values().filter_map(WeakClaim::upgrade).collect(),
        }
    }

    /// Ends it: every guard and waiter on it learns at once. A store calls this as soon as it knows that the session is
    /// gone. The first reason stays.
    pub fn end(&self, why: LossReason) {
        if self.0.deadline.end(why) {
            self.report_loss(why);
        }
    }

    /// Completes when the session has ended or its validity is over.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn lost(&self) -> LossReason {
        loop {
            let changed = self.0.deadline.changed();
            if let Some(reason) = self.loss() {
                return reason;
            }
            tokio::select! {
                () = changed => {}
                () = self.0.clock.sleep_until(self.0.deadline.moment()) => {}
            }
        }
    }

    /// Why it is over, if it is over.
    pub(crate) fn loss(&self) -> Option<LossReason> {
        self.loss_at(self.0.clock.now())
    }

    pub(crate) fn loss_at(&self, now: Moment) -> Option<LossReason> {
        self.0.deadline.loss(now, || self.report_loss(LossReason::Expired))
    }

    fn report_loss(&self, why: LossReason) {
        self.claims().iter().filter(|claim| !claim.deadline().is_over()).for_each(|claim| observe::lost(claim, why));
    }

    /// The store confirmed, at a request sent at `sent`, that it keeps the session for `ttl`.
    pub(crate) fn confirm(&self, sent: Moment, ttl: Duration) {
        let clock = &self.0.clock;
        if self.0.deadline.extend(clock.now(), clock.valid_until(sent, ttl)) {
            locked(&self.0.schedule).confirmed(sent);
        }
    }

    pub(crate) fn deadline(&self) -> &Deadline {
        &self.0.deadline
    }

    pub(crate) fn schedule(&self) -> std::sync::MutexGuard<'_, Schedule> {
        locked(&self.0.schedule)
    }

    pub(crate) fn only_claim(&self) -> Option<&Claim> {
        match &self.0.of {
            Kind::Single(claim) => Some(claim),
            Kind::Shared { .. } => None,
        }
    }

    /// Whether it is to be renewed: a fixed lease never is, a shared session while it carries a claim.
    pub(crate) fn is_renewed(&self) -> bool {
        match &self.0.of {
            Kind::Single(claim) => !claim.is_fixed(),
            Kind::Shared { carried, .. } => !locked(carried).is_empty(),
        }
    }
}

impl SessionInner {
    pub(crate) fn put_down(&self, holder: Holder) {
        if let Kind::Shared { carried, .. } = &self.of {
            locked(carried).remove(&holder);
        }
    }
}

impl PartialEq for Session {
    fn eq(&self, other: &Session) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Session {}

impl Hash for Session {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("key", &self.key()).field("ttl", &self.0.ttl).finish_non_exhaustive()
    }
}

impl PendingSession {
    /// The store opened the session: `key` is its own number for it, `ttl` what it granted.
    pub fn established(self, key: u64, ttl: Duration) -> Session {
        Session::new(Kind::Shared { key, carried: Mutex::default() }, &self.clock, self.sent, ttl)
    }
}
