//! [`Claim`]: the wish of one holder to have one name for a TTL.

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use super::deadline::Deadline;
use crate::observe;
use crate::words::{Clock, Holder, HolderInfo, LockName, LossReason, Moment, Share};

/// The wish of one holder to have one name for a TTL. A store is asked with a claim, and a retry
/// uses the same claim.
///
/// Every acquisition has a claim of its own, with a fresh [`Holder`]. Cloning is cheap and gives
/// the same claim.
///
/// # State
///
/// A claim has four independent flags. All of them are atomic; none is behind a mutex.
///
/// | flag | set | cleared | meaning |
/// |---|---|---|---|
/// | in doubt | by the core, when a request is cut off | by the store in a release, with [`clear_doubt`](Claim::clear_doubt) | a request may still be applied: a release is repeated until one TTL has passed |
/// | settled | by the core, when its withdrawal has ended | never | nothing is withdrawn any more: an entry that a session still has for it is an orphan |
/// | retired | by the store, with [`retire`](Claim::retire) | never | a retry takes a claim of a fresh holder |
/// | deadline | over when its lease is lost or released | never: over is final | the holder may no longer believe; the deadline of its session bounds it as well |
#[derive(Clone)]
pub struct Claim(Arc<Inner>);

struct Inner {
    name: LockName,
    holder: Holder,
    share: Share,
    ttl: Duration,
    fixed: bool,
    queues: bool,
    info: Arc<HolderInfo>,
    /// Moment at which a request was last cut off, so that it may still be applied; zero if none
    /// may.
    in_doubt_since: AtomicU64,
    /// The withdrawal has ended.
    settled: AtomicBool,
    /// A retry needs another claim.
    retired: AtomicBool,
    deadline: Deadline,
    /// The number of the session that carries it; zero if none does.
    session: AtomicU64,
    store_state: OnceLock<Box<dyn Any + Send + Sync>>,
}

impl Claim {
    /// A claim of a fresh holder whose lease is renewed, and which enters no queue. The core makes
    /// the claims of its users; tests of a store make their own.
    pub fn new(name: LockName, ttl: Duration) -> Claim {
        Claim::with(name, ttl, false, false, Arc::default())
    }

    /// A claim that enters the store's queue, if the store has one.
    pub fn queueing(name: LockName, ttl: Duration) -> Claim {
        Claim::with(name, ttl, false, true, Arc::default())
    }

    /// The same holder's claim at one of several stores that vote on it. It has a store state of
    /// its own and enters no queue. Its deadline is over from the start, since the loss is observed
    /// at the whole claim.
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
            share: Share::Lock,
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

    /// The holder that claims the lock.
    pub fn holder(&self) -> Holder {
        self.0.holder
    }

    /// The part of the name that it asks for. The core asks no store for a share that its
    /// guarantees do not [offer](crate::Guarantees::offers).
    pub fn share(&self) -> Share {
        self.0.share
    }

    /// Time for which the store shall keep the lease if it is not renewed.
    pub fn ttl(&self) -> Duration {
        self.0.ttl
    }

    /// True if the lease is never renewed. Where sessions carry leases, it gets a session of its
    /// own.
    pub fn is_fixed(&self) -> bool {
        self.0.fixed
    }

    /// True if the claim waits when the lock is held: it enters the store's queue, or leaves a mark
    /// that keeps later readers from starving it. Otherwise a request for a held lock must write
    /// nothing.
    pub fn queues(&self) -> bool {
        self.0.queues
    }

    /// Description of the holder for people.
    pub fn info(&self) -> &HolderInfo {
        &self.0.info
    }

    /// True if a request for this claim was cut off before its answer came, so that it may be
    /// applied later. A store that can leave a mark which stops such a late request leaves it when
    /// it releases a claim in doubt.
    pub fn is_in_doubt(&self) -> bool {
        self.0.in_doubt_since.load(Ordering::Acquire) != 0
    }

    /// Declares that no request for this claim can be applied any more, not even one that was cut
    /// off: the mark of the release stops it, or the release was ordered after it. A store calls
    /// this in a release, and the release is then not repeated.
    pub fn clear_doubt(&self) {
        self.0.in_doubt_since.store(0, Ordering::Release);
    }

    /// Retires this holder: an earlier call for it, such as a release, may still be applied, or be
    /// applied twice, and would undo a retry. The core continues with another claim, of a fresh
    /// holder.
    pub fn retire(&self) {
        self.0.retired.store(true, Ordering::Release);
    }

    /// True if the store has retired this holder.
    pub fn is_retired(&self) -> bool {
        self.0.retired.load(Ordering::Acquire)
    }

    /// State that the store keeps with this claim, made at the first call: a key, a vote, a
    /// connection.
    ///
    /// # Panics
    ///
    /// If the claim already has a store state of another type: a claim belongs to one store.
    pub fn store_state<T: Send + Sync + 'static>(&self, init: impl FnOnce() -> T) -> &T {
        self.0
            .store_state
            .get_or_init(|| Box::new(init()))
            .downcast_ref()
            .expect("BUG: the notes of a claim have one type, that of its store")
    }

    /// Number of the shared session that carries it; zero if none does.
    pub(crate) fn session(&self) -> u64 {
        self.0.session.load(Ordering::Acquire)
    }

    /// Moves it to the session with this number, and away from every other.
    pub(crate) fn set_session(&self, number: u64) {
        self.0.session.store(number, Ordering::Release);
    }

    /// Marks that a request was cut off just now.
    pub(crate) fn set_in_doubt(&self) {
        self.0.in_doubt_since.fetch_max(Clock::system().now().as_nanos().max(1), Ordering::AcqRel);
    }

    /// Moment at which a request was last cut off; `None` if no request can be applied any more.
    pub(crate) fn in_doubt_since(&self) -> Option<Moment> {
        match self.0.in_doubt_since.load(Ordering::Acquire) {
            0 => None,
            nanos => Some(Moment::from_nanos(nanos)),
        }
    }

    /// Marks that it is neither wanted nor withdrawn any more, although copies of it may live on.
    /// An entry that its session still has for it, or gets late, is an orphan.
    pub(crate) fn settle(&self) {
        self.0.settled.store(true, Ordering::Release);
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.0.settled.load(Ordering::Acquire)
    }

    /// Over when this one lease is lost or released. The session's deadline bounds it as well.
    pub(crate) fn deadline(&self) -> &Deadline {
        &self.0.deadline
    }

    /// Ends its lease as lost. The first reason stays.
    pub(crate) fn lose(&self, why: LossReason) {
        if self.0.deadline.end(why) {
            observe::lost(self.name(), self.holder(), why);
        }
    }

    pub(crate) fn downgrade(&self) -> WeakClaim {
        WeakClaim(Arc::downgrade(&self.0))
    }
}

/// A weak reference to a claim.
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
            .field("share", &self.0.share)
            .field("ttl", &self.0.ttl)
            .field("fixed", &self.0.fixed)
            .field("queues", &self.0.queues)
            .finish_non_exhaustive()
    }
}
