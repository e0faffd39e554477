//! The store of leasehold in one SQLite file: many processes of one machine.
//!
//! No server is needed. The file keeps, for each name, who holds it, until when, and the last fencing token; the row
//! stays after the release, so that the token goes on rising. Every step is one transaction that is on the disk before
//! it is answered.
//!
//! ```
//! # use std::time::Duration;
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> lock_core::Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("locks.db");
//! let store = lock_sqlite::SqliteStore::open(lock_sqlite::SqliteConfig::new(path)).await?;
//! let locks = lock_core::Locks::new(store);
//! let guard = locks.lock("nightly-report").ttl(Duration::from_secs(30)).acquire().await?;
//! guard.release().await?;
//! # Ok(()) }
//! ```
//!
//! # Limits
//!
//! - One machine only. A lease is judged by this machine's boot-time clock and boot id, so that a file on a network
//!   file system, of another machine, or seen from a time namespace with an offset is refused.
//! - One writer at a time: a process that is stopped inside its transaction blocks every name of the file until it
//!   goes on or ends. Transactions are as short as one write to the disk.
//! - Waiters poll, every few milliseconds at first. Across processes nobody's turn is kept.

mod changes;
mod companions;
mod config;
mod driver;
mod error;
mod file;
mod job;
mod machine;
mod open;
mod presence;
mod row;
mod schema;
mod shared;
mod steps;
mod store;
mod tables;
mod worker;

pub use self::config::SqliteConfig;
pub use self::driver::SqliteDriver;
pub use self::store::SqliteStore;
