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

/// A liveness link that carries leases: an etcd lease, a ZooKeeper session. A lease with a TTL of
/// its own is a session of one, which the core makes itself.
///
/// A store opens a session, puts claims on it with [`carry`](Session::carry) *before* it writes
/// anything for them, and returns it with each lease. The core renews it while it carries a claim.
/// When it ends, all its leases are lost. Cloning is cheap and gives the same session.
///
/// Its two mutexes, of the schedule and of the carried claims, are never held together, and no
/// other mutex is taken under either of them.
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
    /// Number that the store gave it.
    key: u64,
    /// Number that this process gave it; its claims have the same.
    number: u64,
    carried: Mutex<Carried>,
}

/// The claims that were put on a session. A claim that was dropped, settled or moved to another
/// session stays until the next sweep, so that a claim needs no reference to its session.
#[derive(Default)]
struct Carried {
    claims: HashMap<Holder, WeakClaim>,
    sweep_at: usize,
}

/// Fewest entries at which a sweep starts, so that a session of few claims is not swept at each of
/// them.
const MIN_SWEEP_ENTRIES: usize = 64;

/// A session that is being opened. It has the moment at which the request for it was sent.
#[derive(Debug)]
pub struct PendingSession {
    clock: Clock,
    sent: Moment,
}

impl Session {
    /// Starts to open a session. Call it *before* the request is sent.
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

    /// Number that the store gave this session; 0 for a session of one.
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

    /// Remaining validity; zero if it is over.
    pub fn remaining(&self) -> Duration {
        self.0.clock.until(self.0.deadline.moment())
    }

    /// True if it is valid now.
    pub fn is_valid(&self) -> bool {
        self.loss().is_none()
    }

    /// Puts a claim on this session: from now on an entry that the store has for it is no orphan.
    pub fn carry(&self, claim: &Claim) {
        if let Kind::Shared(shared) = &self.0.kind
            && !claim.is_settled()
        {
            claim.set_session(shared.number);
            shared.insert(claim);
        }
    }

    /// True if this session carries the claim: it is the claim's own, or the last one that it was
    /// put on.
    pub fn carries(&self, claim: &Claim) -> bool {
        match &self.0.kind {
            Kind::Single(single) => single.holder() == claim.holder(),
            Kind::Shared(shared) => shared.carries(claim),
        }
    }

    /// The claims on this session that are still wanted or being withdrawn. Any other entry that
    /// the store has on the session is an orphan, to be deleted in the next renewal round.
    pub fn claims(&self) -> Vec<Claim> {
        match &self.0.kind {
            Kind::Single(claim) => vec![claim.clone()],
            Kind::Shared(shared) => shared.claims(),
        }
    }

    /// Ends the session and notifies every guard and waiter on it at once. A store calls this as
    /// soon as it knows that the session is gone. The first reason stays.
    pub fn end(&self, why: LossReason) {
        if self.0.deadline.end(why) {
            self.report_loss(why);
        }
    }

    /// Completes when the session has ended or its validity is over, with the reason.
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

    /// Reason of the loss, if it is over.
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

    /// Notes that the store keeps the session for `ttl`, as the answer to a request sent at `sent`.
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

    /// True if it is to be renewed: a fixed lease never is, and a shared session is while it
    /// carries a claim.
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
        // Claims are dropped outside the lock, since dropping the store state of one may call this
        // again.
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

    /// Removes the claims that this session no longer carries, and adds every claim that was
    /// examined to `claims`.
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
    /// The session that the store opened: `key` is the number that the store gave it, `ttl` the TTL
    /// that it granted.
    pub fn established(self, key: u64, ttl: Duration) -> Session {
        Session::new(Kind::Shared(Shared::new(key)), &self.clock, self.sent, ttl)
    }
}
