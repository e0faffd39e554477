//! [`Session`]: the liveness link that carries leases.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::claim::{Claim, WeakClaim};
use super::deadline::Deadline;
use super::schedule::Schedule;
use crate::observe;
use crate::sync::locked;
use crate::words::{Clock, Holder, LossReason, Moment};

/// A liveness link that carries leases: an etcd lease, a ZooKeeper session. A lease with a TTL of its own is a session
/// of one, which the core makes by itself.
///
/// A store opens a session, puts claims on it with [`carry`](Session::carry) *before* it writes anything for them, and
/// gives it back with each lease. The core renews it while it carries a claim, and loses all its leases when it ends.
/// Cloning is cheap and gives the same session.
#[derive(Clone)]
pub struct Session(Arc<Inner>);

struct Inner {
    kind: Kind,
    ttl: Duration,
    clock: Clock,
    deadline: Deadline,
    schedule: Mutex<Schedule>,
}

enum Kind {
    Single(Claim),
    Shared(Shared),
}

struct Shared {
    /// The store's own number for it.
    key: u64,
    /// This process's own number for it, which its claims have too.
    number: u64,
    carried: Mutex<Carried>,
}

/// The claims that were put on a session. One that was dropped or settled, or is on another session by now, stays until
/// the next sweep: so that a claim needs no way back to its session.
#[derive(Default)]
struct Carried {
    claims: HashMap<Holder, WeakClaim>,
    sweep_at: usize,
}

/// The fewest entries that are swept, so that a session of few claims is not swept at each of them.
const MIN_SWEEP_ENTRIES: usize = 64;

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

    fn new(kind: Kind, clock: &Clock, sent: Moment, ttl: Duration) -> Session {
        Session(Arc::new(Inner {
            kind,
            ttl,
            clock: clock.clone(),
            deadline: Deadline::until(clock.valid_until(sent, ttl)),
            schedule: Mutex::new(Schedule::renewed_at(sent)),
        }))
    }

    /// The store's own number for this session; 0 for a session of one.
    pub fn key(&self) -> u64 {
        match &self.0.kind {
            Kind::Single(_) => 0,
            Kind::Shared(shared) => shared.key,
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
        if let Kind::Shared(shared) = &self.0.kind
            && !claim.is_settled()
        {
            claim.set_session(shared.number);
            shared.insert(claim);
        }
    }

    /// Whether this claim is on this session: its own, or the last that it was put on.
    pub fn carries(&self, claim: &Claim) -> bool {
        match &self.0.kind {
            Kind::Single(single) => single.holder() == claim.holder(),
            Kind::Shared(shared) => shared.carries(claim),
        }
    }

    /// The claims on this session that somebody still wants or withdraws. What the store keeps on the session beyond
    /// these is an orphan, to be deleted in the next renewal round.
    pub fn claims(&self) -> Vec<Claim> {
        match &self.0.kind {
            Kind::Single(claim) => vec![claim.clone()],
            Kind::Shared(shared) => shared.claims(),
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
        self.claims()
            .iter()
            .filter(|claim| !claim.deadline().is_over())
            .for_each(|claim| observe::lost(claim.name(), claim.holder(), why));
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
        match &self.0.kind {
            Kind::Single(claim) => Some(claim),
            Kind::Shared(_) => None,
        }
    }

    /// Whether it is to be renewed: a fixed lease never is, a shared session while it carries a claim.
    pub(crate) fn is_renewed(&self) -> bool {
        match &self.0.kind {
            Kind::Single(claim) => !claim.is_fixed(),
            Kind::Shared(shared) => shared.carries_any(),
        }
    }
}

impl Shared {
    fn new(key: u64) -> Shared {
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        Shared { key, number: NUMBERS.fetch_add(1, Ordering::Relaxed), carried: Mutex::default() }
    }

    fn carries(&self, claim: &Claim) -> bool {
        claim.session() == self.number && !claim.is_settled()
    }

    fn insert(&self, claim: &Claim) {
        // Claims are dropped outside the lock: what a store keeps with one may come back here.
        let mut claims = Vec::new();
        let mut carried = locked(&self.carried);
        if carried.claims.len() >= carried.sweep_at {
            self.sweep(&mut carried, &mut claims);
            carried.sweep_at = (2 * carried.claims.len()).max(MIN_SWEEP_ENTRIES);
        }
        carried.claims.insert(claim.holder(), claim.downgrade());
        drop(carried);
    }

    fn claims(&self) -> Vec<Claim> {
        let mut claims = Vec::new();
        self.sweep(&mut locked(&self.carried), &mut claims);
        claims.retain(|claim| self.carries(claim));
        claims
    }

    /// Removes what this session does not carry any more, and gives every claim that was looked at.
    fn sweep(&self, carried: &mut Carried, claims: &mut Vec<Claim>) {
        carried.claims.retain(|_, claim| {
            let Some(claim) = claim.upgrade() else { return false };
            let stays = self.carries(&claim);
            claims.push(claim);
            stays
        });
    }

    fn carries_any(&self) -> bool {
        let mut claims = Vec::new();
        let carried = locked(&self.carried);
        let found = carried.claims.values().filter_map(WeakClaim::upgrade).any(|claim| {
            let carries = self.carries(&claim);
            claims.push(claim);
            carries
        });
        drop(carried);
        found
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
        Session::new(Kind::Shared(Shared::new(key)), &self.clock, self.sent, ttl)
    }
}
