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

pub use lock_core::*;

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
    let registry = registry.with(lock_redis::RedisDriver).with(QuorumDriver::redlock());
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
