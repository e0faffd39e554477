//! The store of leasehold in PostgreSQL: lease rows in a table, or advisory locks.
//!
//! A lock is one row, which stays when the lock is free, so that its token goes on rising. Every step is one statement;
//! none that grants waits for a row; every time is the server's. Waiters are told of a release by a message. Where the
//! data that a lock protects is in the same database, [`FenceCondition`] fences it in its own transaction.
//!
//! ```no_run
//! # use std::time::Duration;
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> lock_core::Result<()> {
//! let url: lock_core::StoreUrl = "postgres://app@10.0.0.1/orders".parse()?;
//! let config = lock_postgres::PostgresConfig::from_url(&url)?;
//! lock_postgres::init(config.clone()).await?; // once; `leasehold init URL` does the same
//! let store = lock_postgres::PostgresStore::connect(config).await?;
//! let locks = lock_core::Locks::new(store);
//! let guard = locks.lock("nightly-report").ttl(Duration::from_secs(30)).acquire().await?;
//! guard.release().await?;
//! # Ok(()) }
//! ```
//!
//! # Limits
//!
//! - A lease ends by the server's wall clock. If that is set forward, leases end early while their holders still
//!   believe; if it is set back, they end late.
//! - A fail-over to a standby that lags forgets grants, and can give a token twice. [`PostgresStore`] looks for standbys
//!   and declares no more than they allow.
//! - Nobody's turn is kept across processes: whoever asks first after a release has the lock.

mod advisory;
mod batcher;
mod config;
mod connect;
mod connect_options;
mod connection;
mod database;
mod driver;
mod error;
mod fence;
mod finding;
mod key;
mod operator;
mod pool;
mod primary;
mod pruner;
mod realm_cache;
mod relay;
mod renew;
mod row;
mod row_decoder;
mod schema;
mod server_status;
mod statement;
mod statements;
mod store;
mod table;
mod tables;
mod wakeups;

pub use self::advisory::AdvisoryStore;
pub use self::config::{FailOver, Mode, PostgresConfig, Tls, TlsMode};
pub use self::driver::PostgresDriver;
pub use self::fence::FenceCondition;
pub use self::finding::{Finding, FindingKind};
pub use self::key::KeyForm;
pub use self::store::PostgresStore;
pub use self::table::Table;
pub use self::tables::init;
