//! Distributed locks that never let a caller believe more than the store can keep.
//!
//! One abstraction over many stores: a feature brings a store, and a URL chooses it.
//!
//! ```
//! # use std::time::Duration;
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> leasehold::Result<()> {
//! let locks = leasehold::connect("memory:").await?; // any store: one line to swap
//! let guard = locks.lock("nightly-report").ttl(Duration::from_secs(30)).wait(Duration::from_secs(5)).acquire().await?;
//! guard.while_held(async { /* build the report */ }).await?; // stops the work when the lease is lost
//! guard.release().await?; // Ok: it was held until now
//! # Ok(()) }
//! ```

//! # Names, in the order in which one needs them
//!
//! | to | take |
//! |---|---|
//! | open a store | [`connect`], [`Config`]; [`StoreUrl`], [`Tls`], [`registry`] |
//! | choose by promise | [`Connect::for_correctness`], [`Guarantees`], [`Fault`] |
//! | describe and acquire a lock | [`Locks`], [`FencedLocks`], [`Lock`] |
//! | hold it | [`LockGuard`], [`FencedGuard`], [`Validity`], [`LossReason`] |
//! | protect what is written | [`FencingToken`], [`Fence`], [`Pass`], [`Realm`] |
//! | see and break locks | [`HeldBy`], [`Holder`], [`HolderInfo`], [`BreakMode`], [`Eviction`] |
//! | know what went wrong | [`Error`], [`ErrorKind`] |
//! | look at the servers and their settings | [`Locks::diagnose`], [`Finding`], [`Severity`] |
//!
//! Those who write a store find the contract in [`store`].
//!
//! # The words
//!
//! | word | meaning |
//! |---|---|
//! | **lease** | the store's grant of a lock for a time, the TTL |
//! | **validity** | how long the holder may believe in its lease: TTL, minus the time since the request was sent, minus a margin |
//! | **renewal** | extending a lease that is still held, never a re-acquisition |
//! | **lost** | the holder may no longer believe in its lease; final |
//! | **holder** | a random identity, fresh for every acquisition |
//! | **fencing token** | a number, greater for every later acquisition of the same name |
//! | **fence** | the protected resource's memory of the highest token; it refuses a smaller one |
//! | **realm** | the identity of a store's data; tokens compare only within one |
//! | **guarantees** | what a store, as configured, promises |
//!
//! [`store`] has the words that only stores need.

pub use lock_core::{BreakMode, Eviction, HeldBy, Holder, HolderInfo};
pub use lock_core::{Clock, ClockKind, Expiry, Fault, Faults, Guarantees, Offer, Offers, Share, Shortfall, WaitStyle};
pub use lock_core::{Config, Connect, MissingDriver, Profile, Purpose, Registry, Require, StoreKind, StoreUrl, Tls};
pub use lock_core::{Effect, Error, ErrorKind, LossReason, Result};
pub use lock_core::{Fence, FencingToken, Filesystem, Pass, Realm};
pub use lock_core::{FencedGuard, FencedLocks, Guard, Lock, LockGuard, LockName, Locks, LocksBuilder, Validity};
pub use lock_core::{Finding, Severity};
pub use lock_core::{Member, MemoryStore, Quorum};

use lock_core::MemoryDriver;

/// The contract for stores, for those who write one: everything that a store's crate imports.
///
/// | word | meaning |
/// |---|---|
/// | **claim** | the wish of one holder to have one name for a TTL |
/// | **in doubt** | a request was cut off, so that it may still be applied |
/// | **retired** | a claim that cannot be asked with again: the core goes on with a fresh holder |
/// | **contention** | the answer that somebody else holds the lock, and when to ask again |
/// | **session** | a liveness link that carries leases; a lease with a TTL of its own is a session of one |
/// | **batch** | what travels to the store in one call, such as renewals |
/// | **entry** | one of a batch, or a claim's place in a store's queue |
/// | **orphan** | what a session has at the server for a claim that nobody wants any more |
/// | **retention** | how far back a store remembers what it granted |
pub mod store {
    pub use lock_core::{
        Attempt, BreakMode, Claim, Contention, Converter, Eviction, Finding, Lease, LockStore, PendingSession,
        Publisher, RaiseOutcome, RecordStore, ReleaseOutcome, Renewal, RenewalBatch, RenewalOutcome, Retention,
        Session, Severity, StoredRecord, TokenRaiser, async_trait,
    };
    pub use lock_core::{
        Clock, ClockKind, Effect, Error, ErrorKind, Expiry, Fault, Faults, FencingToken, Guarantees, HeldBy, Holder,
        HolderInfo, LockName, Locks, LossReason, Moment, Offer, Offers, ParseHolderError, Realm, Result, Share, Space,
        Suspender, WaitStyle,
    };
    pub use lock_core::{
        Driver, KeyValue, MemoryDriver, MissingDriver, PemFile, QuorumDriver, Registry, StoreKind, StoreParts,
        StoreUrl, Tls, TlsFiles,
    };
    pub use lock_core::{kit, random, runtime};
}

/// The stores that were compiled in, and the names of those that were not.
pub fn registry() -> Registry {
    let registry = Registry::new().with(MemoryDriver);
    #[cfg(feature = "etcd")]
    let registry = registry.with(lock_etcd::EtcdDriver);
    #[cfg(not(feature = "etcd"))]
    let registry = registry.without(&["etcd", "etcds"], "etcd");
    #[cfg(feature = "postgres")]
    let registry = registry.with(lock_postgres::PostgresDriver);
    #[cfg(not(feature = "postgres"))]
    let registry = registry.without(&["postgres", "postgresql"], "postgres");
    #[cfg(feature = "redis")]
    let registry = registry.with(lock_redis::RedisDriver).with(lock_core::QuorumDriver::redlock());
    #[cfg(not(feature = "redis"))]
    let registry =
        registry.without(&["redis", "rediss", "redis+unix", "redis-sentinel", "redis-cluster", "redlock"], "redis");
    #[cfg(feature = "sqlite")]
    let registry = registry.with(lock_sqlite::SqliteDriver);
    #[cfg(not(feature = "sqlite"))]
    let registry = registry.without(&["sqlite"], "sqlite");
    #[cfg(feature = "zk")]
    let registry = registry.with(lock_zk::ZkDriver);
    #[cfg(not(feature = "zk"))]
    let registry = registry.without(&["zk", "zks"], "zk");
    registry
}

/// Connects to the store at this URL; await it. The same as `registry().connect(url)`.
///
/// # Errors
///
/// As [`Connect`].
///
/// # Cancel safety
///
/// As [`Connect`].
pub fn connect(url: impl AsRef<str>) -> Connect {
    registry().connect(url)
}

/// The store in etcd.
#[cfg(feature = "etcd")]
pub mod etcd {
    pub use lock_etcd::*;
}

/// The store in PostgreSQL.
#[cfg(feature = "postgres")]
pub mod postgres {
    pub use lock_postgres::*;
}

/// The store in Redis.
#[cfg(feature = "redis")]
pub mod redis {
    pub use lock_redis::*;
}

/// The store in one SQLite file.
#[cfg(feature = "sqlite")]
pub mod sqlite {
    pub use lock_sqlite::*;
}

/// The store in ZooKeeper.
#[cfg(feature = "zk")]
pub mod zk {
    pub use lock_zk::*;
}

/// The examples of the README are run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
