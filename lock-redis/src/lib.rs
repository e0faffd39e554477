//! The store of leasehold in Redis: one server, the master that sentinels name, or a cluster.
//!
//! A lock is one key with one expiry, `lock:` and the name, so that other clients that keep a text at the same key are
//! excluded and exclude. Every step is one script. Waiters are told of a release by a message.
//!
//! ```no_run
//! # use std::time::Duration;
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> lock_core::Result<()> {
//! let url: lock_core::StoreUrl = "redis://10.0.0.1:6379/0".parse()?;
//! let store = lock_redis::RedisStore::connect(lock_redis::RedisConfig::from_url(&url)?).await?;
//! let locks = lock_core::Locks::new(store);
//! let guard = locks.lock("nightly-report").ttl(Duration::from_secs(30)).acquire().await?;
//! guard.release().await?;
//! # Ok(()) }
//! ```
//!
//! # Limits
//!
//! - What a lock and its token survive is what the server keeps. Without persistence a restart forgets who holds a lock,
//!   and a fail-over to a replica that lags does too. [`RedisStore`] reads the server's settings and declares no more.
//! - A lease ends by the server's wall clock. If that is set forward, leases end early while their holders still
//!   believe; if it is set back, they end late.
//! - Nobody's turn is kept across processes: whoever asks first after a release has the lock.

mod acknowledgement;
mod batcher;
mod coalescer;
mod config;
mod connections;
mod connector;
mod driver;
mod error;
mod keys;
mod node;
mod record;
mod reply;
mod router;
mod script;
mod server_info;
mod store;
mod subscriptions;
mod tokens;
mod value;

pub use self::config::{RedisConfig, Tls, Topology};
pub use self::driver::RedisDriver;
pub use self::server_info::{Finding, FindingKind};
pub use self::store::RedisStore;
