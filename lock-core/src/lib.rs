//! The core of leasehold: leases, validity, fencing tokens, and the contract for stores.
//!
//! Programs use the facade crate `leasehold`; this crate is for those who write a store, and has all that the facade
//! gives on.
//!
//! Data travels one way: configuration → [`LockStore`] → [`Lock`] → [`Lease`] and [`LockGuard`] → [`FencingToken`] →
//! fence.
//!
//! # The words
//!
//! | word | meaning |
//! |---|---|
//! | **store** | the system that decides who holds a lock |
//! | **holder** | a random 128-bit identity, fresh for every acquisition |
//! | **claim** | the wish of one holder to have one name for a TTL |
//! | **lease** | the store's grant of a claim |
//! | **TTL** | how long the store keeps an unrenewed lease |
//! | **validity** | how long the holder may believe in its lease: TTL minus the time since the request was *sent* minus a margin |
//! | **renewal** | extending a lease that is still held; never a re-acquisition |
//! | **session** | a liveness link that carries leases; a lease with a TTL of its own is a session of one |
//! | **fencing token** | a number, greater for every later acquisition of the same name |
//! | **realm** | the identity of the store's data; tokens compare only within one realm |
//! | **fence** | the protected resource's memory of the highest token it has seen; it refuses a smaller one |
//! | **guarantees** | what a store, as configured, promises |
//! | **purpose** | why the caller locks: *efficiency* (a double run costs money) or *correctness* (a double run is a bug) |
//! | **lost** | the holder may no longer believe; final |

mod contract;
mod engine;
mod fence;
mod filesystem;
mod locks;
mod memory;
mod observe;
mod open;
mod quorum;
pub mod runtime;
mod sync;
mod words;

pub use async_trait::async_trait;

pub use self::contract::{
    Attempt, Beat, BreakMode, Claim, Contention, Eviction, Lease, LockStore, PendingSession, RaiseOutcome, RecordStore,
    ReleaseOutcome, Renewal, RenewalBatch, RenewalOutcome, Retention, Session, StoredRecord, TokenRaiser,
};
pub use self::fence::{Fence, Pass};
pub use self::filesystem::Filesystem;
pub use self::locks::{FencedGuard, FencedLocks, Guard, Lock, LockGuard, Locks, LocksBuilder, Validity};
pub use self::memory::MemoryStore;
pub use self::open::{
    Config, Connect, Driver, KeyValue, MemoryDriver, MissingDriver, Profile, Purpose, Registry, Require, StoreKind,
    StoreParts, StoreUrl,
};
pub use self::quorum::{Member, Quorum, QuorumDriver};
pub use self::words::random;
pub use self::words::{
    Clock, ClockKind, Effect, Error, ErrorKind, Expiry, Fault, Faults, FencingToken, Guarantees, HeldBy, Holder,
    HolderInfo, LockName, LossReason, Moment, ParseHolderError, Realm, Result, Shortfall, Suspender, WaitStyle,
};
