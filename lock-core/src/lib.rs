//! The core of leasehold: leases, validity, fencing tokens, and the contract for stores.
//!
//! Programs use the facade crate `leasehold`. This crate is for authors of stores, and has
//! everything that the facade re-exports.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> lock_core::Result<()> {
//! use lock_core::{Locks, MemoryStore};
//!
//! let locks = Locks::new(MemoryStore::new()); // or any other `LockStore`
//! let guard = locks.lock("nightly-report").acquire().await?;
//! guard.while_held(async { /* the work */ }).await?; // stops the work when the lease is lost
//! guard.release().await
//! # }
//! ```
//!
//! Data travels one way: configuration → [`LockStore`] → [`Lock`] → [`Lease`] and [`LockGuard`] →
//! [`FencingToken`] → fence.
//!
//! # Limits
//!
//! - The core has no client of any server: that is the part of a store.
//! - A lease ends by time on every store. Only a [`Fence`] at the resource stops a holder that was
//!   paused between its last check and its write.
//! - Locks are exclusive and not re-entrant: every acquisition is a holder of its own.
//!
//! # The files, in reading order
//!
//! A folder imports only from folders above it in this table, and from the four helper files at its
//! end.
//!
//! | file | contents |
//! |---|---|
//! | `words/` | names, holders, tokens, guarantees, errors, the clock |
//! | `contract/` | [`LockStore`], and the types that pass between the core and a store: claims, sessions, batches of renewals |
//! | `engine/` | the loop that acquires, and the task that renews and withdraws; the same for every store |
//! | `kit/` | for stores: sessions driven by one protocol, operations that travel in batches, single flight, names and records in a server, checks of settings |
//! | `locks/` | [`Locks`], [`Lock`], guards and [`Validity`] |
//! | `open/` | URLs, configuration, and the registry of stores |
//! | `memory/` | [`MemoryStore`], the reference model of the contract |
//! | `quorum/` | [`Quorum`], a store over several stores |
//! | `fence/` | [`Fence`], in memory or in a file |
//! | `runtime.rs` | the background runtime, and one value per runtime |
//! | `observe.rs` | tracing events and metrics |
//! | `sync.rs` | locking a mutex without regard to poisoning |
//! | `filesystem.rs` | [`Filesystem`]: how durable a file is |
//!
//! # The words
//!
//! | word | meaning |
//! |---|---|
//! | **store** | the system that decides who holds a lock |
//! | **holder** | a random 128-bit identity, fresh for every acquisition |
//! | **claim** | the wish of one holder to have one name for a TTL |
//! | **ticket** | a place in this process's queue of waiters for one name |
//! | **entry** | one of a batch, or a claim's place in a store's queue or on a session |
//! | **contention** | the answer that another holder has the lock, and when to retry |
//! | **lease** | the store's grant of a claim |
//! | **TTL** | how long the store keeps an unrenewed lease |
//! | **validity** | how long the holder may believe in its lease: TTL minus the time since the request was *sent* minus a margin |
//! | **renewal** | extending a lease that is still held; never a re-acquisition |
//! | **batch** | what travels to the store in one call, such as renewals |
//! | **session** | a liveness link that carries leases; a lease with a TTL of its own is a session of one |
//! | **orphan** | an entry that a session has at the server for a claim that is neither wanted nor withdrawn any more |
//! | **in doubt** | a request was cut off, so that it may still be applied |
//! | **retired** | of a claim: no retry with it; the core continues with a fresh holder |
//! | **retention** | how far back a store remembers its grants |
//! | **fencing token** | a number, greater for every later acquisition of the same name |
//! | **realm** | the identity of the store's data; tokens compare only within one realm |
//! | **fence** | the protected resource's memory of the highest token it has seen; it refuses a smaller one |
//! | **finding** | one fact of a diagnosis: severity, code, subject and text |
//! | **guarantees** | the promises of a store as configured |
//! | **purpose** | why the caller locks: *efficiency* (a double run costs money) or *correctness* (a double run is a bug) |
//! | **lost** | the holder may no longer believe; final |

mod contract;
mod engine;
mod fence;
mod filesystem;
pub mod kit;
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
    Attempt, BreakMode, Claim, Contention, Converter, Eviction, Finding, Lease, LockStore, PendingSession, Publisher,
    RaiseOutcome, RecordStore, ReleaseOutcome, Renewal, RenewalBatch, RenewalOutcome, Retention, Session, Severity,
    StoredRecord, TokenRaiser,
};
pub use self::fence::{Fence, Pass};
pub use self::filesystem::Filesystem;
pub use self::locks::{FencedGuard, FencedLocks, Guard, Lock, LockGuard, Locks, LocksBuilder, Validity};
pub use self::memory::{MemoryDriver, MemoryStore};
pub use self::open::{
    Config, Connect, Driver, KeyValue, MissingDriver, PemFile, Profile, Purpose, Registry, Require, StoreKind,
    StoreParts, StoreUrl, Tls, TlsFiles,
};
pub use self::quorum::{Member, Quorum, QuorumDriver};
pub use self::words::random;
pub use self::words::{
    Clock, ClockKind, Effect, Error, ErrorKind, Expiry, Fault, Faults, FencingToken, Guarantees, HeldBy, Holder,
    HolderInfo, LockName, LossReason, Moment, Offer, Offers, ParseHolderError, Realm, Result, Share, Shortfall, Space,
    Suspender, WaitStyle,
};
