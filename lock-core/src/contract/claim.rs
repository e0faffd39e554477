//! [`Claim`]: the wish of one holder to have one name for a TTL.

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use super::deadline::Deadline;
use crate::observe;
use crate::words::{Clock, Holder, HolderInfo, LockName, LossReason, Moment};

/// The wish of one holder to have one name for a TTL: what a store is asked for, and by which it is asked again.
///
/// Every acquisition has a claim of its own, with a fresh [`Holder`]. Cloning is cheap and gives the same claim.
#[derive(Clone)]
pub struct Claim(Arc<Inner>);

struct Inner {
    name: LockName,
    holder: Holder,
    ttl: Duration,
    fixed: bool,
    queues: bool,
    info: Arc<HolderInfo>,
    /// When a request for this claim was last cut off, so that it may still be applied; zero if none can be.
    in_doubt_since: AtomicU64,
    /// It was given back, and nothing is withdrawn any more.
    settled: AtomicBool,
    /// Its store wants to be asked with another claim.
    retired: AtomicBool,
    deadline: Deadline,
    /// The number of the session that carries it; zero if none does.
    session: AtomicU64,
    store_state: OnceLock<Box<dyn Any + Send + Sync>>,
}

impl Claim {
    /// A claim of a fresh holder, renewed and without a place in a queue. The core makes claims for its users; tests
    /// of a store make their own.
    pub fn new(name: LockName, ttl: Duration) -> Claim {
        Claim::with(name, ttl, false, false, Arc::default())
    }

    /// A claim that enters the queue of a store that has one.
    pub fn queueing(name: LockName, ttl: Duration) -> Claim {
        Claim::with(name, ttl, false, true, Arc::default())
    }

    /// The same holder's claim at one of several stores that vote on it: with notes of its own, and without a place in
    /// a queue. Its end is observed where the whole claim's is.
    pub fn for_member(&self) -> Claim {
        let inner = &self.0;
        let vote = Claim::of(inner.holder, inner.name.clone(), inner.ttl, inner.fixed, false, inner.info.clone());
        vote.0.deadline.end(LossReason::Released);
        vote
    }

    pub(crate) fn with(name: LockName, ttl: Duration, fixed: bool, queues: bool, info: Arc<HolderInfo>) -> Claim {
        Claim::of(Holder::fresh(), name, ttl, fixed, queues, info)
    }

    fn of(holder: Holder, name: LockName, ttl: Duration, fixed: bool, queues: bool, info: Arc<HolderInfo>) -> Claim {
        Claim(Arc::new(Inner {
            name,
            holder,
            ttl,
            fixed,
            queues,
            info,
            in_doubt_since: AtomicU64::new(0),
            settled: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            deadline: Deadline::until(Deadline::NEVER),
            session: AtomicU64::new(0),
            store_state: OnceLock::new(),
        }))
    }

    /// The lock's name.
    pub fn name(&self) -> &LockName {
        &self.0.name
    }

    /// Who claims it.
    pub fn holder(&self) -> Holder {
        self.0.holder
    }

    /// How long the store shall keep the lease if it is not renewed.
    pub fn ttl(&self) -> Duration {
        self.0.ttl
    }

    /// Whether the lease is never renewed; where a store's sessions carry leases, it gets one of its own.
    pub fn is_fixed(&self) -> bool {
        self.0.fixed
    }

    /// Whether the claim takes a place in the store's queue when the lock is held. If not, a request for a held lock
    /// must write nothing.
    pub fn queues(&self) -> bool {
        self.0.queues
    }

    /// What people shall see of the holder.
    pub fn info(&self) -> &HolderInfo {
        &self.0.info
    }

    /// Whether a request for this claim was cut off before its answer came, so that it may be applied later. A store
    /// that can leave a mark which such a late request meets leaves it when it releases an unclear claim.
    pub fn is_in_doubt(&self) -> bool {
        self.0.in_doubt_since.load(Ordering::Acquire) != 0
    }

    /// Says that no request for this claim can be applied any more, also none that was cut off: a mark of the release
    /// meets it, or the release was ordered behind it. A store says so in a release, and then nothing is repeated.
    pub fn clear_doubt(&self) {
        self.0.in_doubt_since.store(0, Ordering::Release);
    }

    /// Says that what was asked for this claim can no longer be told apart from what will be: a release of it, say, may
    /// still be applied, or a second time. The core then asks with another claim, of a fresh holder.
    pub fn retire(&self) {
        self.0.retired.store(true, Ordering::Release);
    }

    /// Whether its store wants to be asked with another claim.
    pub fn is_retired(&self) -> bool {
        self.0.retired.load(Ordering::Acquire)
    }

    /// What the store itself keeps with this claim, made at the first call: a key, a vote, a connection.
    ///
    /// # Panics
    ///
    /// If the same claim was given notes of another type before: a claim belongs to one store.
    pub fn store_state<T: Send + Sync + 'static>(&self, init: impl FnOnce() -> T) -> &T {
        self.0
            .store_state
            .get_or_init(|| Box::new(init()))
            .downcast_ref()
            .expect("BUG: the notes of a claim have one type, that of its store")
    }

    /// The number of the shared session that carries it; zero if none does.
    pub(crate) fn session(&self) -> u64 {
        self.0.session.load(Ordering::Acquire)
    }

    /// Puts it on the session with this number, and on no other any more.
    pub(crate) fn set_session(&self, number: u64) {
        self.0.session.store(number, Ordering::Release);
    }

    /// A request for it was cut off just now.
    pub(crate) fn set_in_doubt(&self) {
        self.0.in_doubt_since.fetch_max(Clock::system().now().as_nanos().max(1), Ordering::AcqRel);
    }

    /// When a request for it was last cut off, unless none can be applied any more.
    pub(crate) fn in_doubt_since(&self) -> Option<Moment> {
        match self.0.in_doubt_since.load(Ordering::Acquire) {
            0 => None,
            nanos => Some(Moment::from_nanos(nanos)),
        }
    }

    /// Nobody wants it and nobody withdraws it any more, though copies of it may live on: whatever its session still
    /// has for it, or gets for it late, is an orphan.
    pub(crate) fn settle(&self) {
        self.0.settled.store(true, Ordering::Release);
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.0.settled.load(Ordering::Acquire)
    }

    /// Over when its lease is lost or released by itself; the session's life bounds it as well.
    pub(crate) fn deadline(&self) -> &Deadline {
        &self.0.deadline
    }

    /// Its lease is lost; the first reason stays.
    pub(crate) fn lose(&self, why: LossReason) {
        if self.0.deadline.end(why) {
            observe::lost(self.name(), self.holder(), why);
        }
    }

    pub(crate) fn downgrade(&self) -> WeakClaim {
        WeakClaim(Arc::downgrade(&self.0))
    }
}

/// A claim that somebody else keeps alive.
pub(crate) struct WeakClaim(Weak<Inner>);

impl WeakClaim {
    pub(crate) fn upgrade(&self) -> Option<Claim> {
        self.0.upgrade().map(Claim)
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim")
            .field("name", &self.0.name)
            .field("holder", &self.0.holder)
            .field("ttl", &self.0.ttl)
            .field("fixed", &self.0.fixed)
            .field("queues", &self.0.queues)
            .finish_non_exhaustive()
    }
}
