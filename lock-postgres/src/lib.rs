//! The store of leasehold in PostgreSQL: lease rows in a table, or advisory locks.
//!
//! A lock is one row, which stays when the lock is free, so that its token goes on rising. Every
//! step is one statement; no statement that grants waits for a row; all times are the server's.
//! Waiters are notified of a release. For data in the same database, [`FenceCondition`] is a fence
//! in the caller's own transaction.
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
//! - A lease ends by the server's wall clock. If that is set forward, leases end early while their
//!   holders still rely on them; if it is set back, they end late.
//! - A fail-over to a standby that lags loses grants, and can give a token twice. [`PostgresStore`]
//!   looks for standbys and declares no more guarantees than they allow.
//! - No fairness across processes: the first request after a release gets the lock.
//!
//! # Files
//!
//! | file | contents |
//! |---|---|
//! | `config`, `libpq` | the configuration; the keys of a URL that are libpq's |
//! | `table`, `key` | the name of the table, the keys of advisory locks |
//! | `driver` | opening stores by URL |
//! | `connect`, `connect_options`, `primary`, `relay` | opening a store; connecting to the primary |
//! | `connection`, `pool`, `database` | one connection; a pool of them; the pools of a store |
//! | `statement`, `statements` | a statement with its parameters; the SQL for lease rows |
//! | `store` | [`PostgresStore`], the contract |
//! | `batcher` | requests and releases in batches |
//! | `row`, `row_decoder`, `realm_cache` | from a row to the outcome of a request |
//! | `renew`, `operator`, `pruner` | renewing leases, breaking locks, removing old rows |
//! | `wakeups` | notifications of releases |
//! | `fence` | [`FenceCondition`] |
//! | `schema`, `tables` | the layout of the tables; checking and creating them |
//! | `server_status`, `diagnose` | guarantees of a server, and findings for operators |
//! | `advisory` | [`AdvisoryStore`], the store with advisory locks |
//! | `error` | classifying errors |

mod advisory;
mod batcher;
mod config;
mod connect;
mod connect_options;
mod connection;
mod database;
mod diagnose;
mod driver;
mod error;
mod fence;
mod key;
mod libpq;
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
pub use self::config::{FailOver, Mode, PostgresConfig, TlsMode};
pub use self::driver::PostgresDriver;
pub use self::fence::FenceCondition;
pub use self::key::KeyForm;
pub use self::store::PostgresStore;
pub use self::table::Table;
pub use self::tables::init;
