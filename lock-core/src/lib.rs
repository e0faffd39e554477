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

mod claim;
mod clock;
mod config;
mod connect;
mod deadline;
mod engine;
mod error;
mod fence;
mod filesystem;
mod guarantees;
mod guard;
mod handle;
mod held_by;
mod holder;
mod lock;
mod locks;
mod memory;
mod name;
mod observe;
mod quorum;
pub mod random;
mod registry;
mod renewals;
pub mod runtime;
mod schedule;
mod session;
mod settings;
mod store;
mod sync;
mod token;
mod url;
mod validity;

pub use async_trait::async_trait;

pub use self::claim::Claim;
pub use self::clock::{Clock, Moment, Suspender};
pub use self::config::{Config, KeyValue, Profile, Purpose, Require, StoreParts};
pub use self::connect::Connect;
pub use self::error::{Effect, Error, ErrorKind, LossReason, Result};
pub use self::fence::{Fence, Pass};
pub use self::filesystem::Filesystem;
pub use self::guarantees::{ClockKind, Expiry, Fault, Faults, Guarantees, Shortfall, WaitStyle};
pub use self::guard::{FencedGuard, Guard, LockGuard};
pub use self::held_by::HeldBy;
pub use self::holder::{Holder, HolderInfo, ParseHolderError};
pub use self::lock::Lock;
pub use self::locks::{FencedLocks, Locks, LocksBuilder};
pub use self::memory::MemoryStore;
pub use self::name::LockName;
pub use self::quorum::{Member, Quorum, QuorumDriver};
pub use self::registry::{Driver, MemoryDriver, MissingDriver, Registry, StoreKind};
pub use self::renewals::{Beat, Renewal, RenewalBatch, RenewalOutcome};
pub use self::session::{PendingSession, Session};
pub use self::store::{
    Attempt, BreakMode, Contention, Eviction, Lease, LockStore, RaiseOutcome, RecordStore, ReleaseOutcome, Retention,
    StoredRecord, TokenRaiser,
};
pub use self::token::{FencingToken, Realm};
pub use self::url::StoreUrl;
pub use self::validity::Validity;
