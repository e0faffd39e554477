//! The store of leasehold in one SQLite file: many processes of one machine.
//!
//! No server is needed. For each name the file has a row with the holder, the end of the lease and
//! the last fencing token. The row stays after the release, so that the token goes on rising. Every
//! step is one transaction, which is on the disk before it is answered.
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
//! - One machine only. Leases are measured by this machine's boot-time clock and boot id, so that a
//!   file on a network file system, of another machine, or seen from a time namespace with an
//!   offset is refused.
//! - One writer at a time: a process that is stopped inside its transaction blocks every name of
//!   the file until it goes on or ends. Transactions are as short as one write to the disk.
//! - Waiters poll, every few milliseconds at first. There is no fairness across processes.
//!
//! # Files
//!
//! | file | contents |
//! |---|---|
//! | `config`, `driver` | the configuration; opening stores by URL |
//! | `open` | opening a [`SqliteStore`], and its guarantees |
//! | `store` | [`SqliteStore`], the contract |
//! | `ops`, `pending_op` | the operations; an operation with its caller |
//! | `diagnose` | the findings for operators |
//! | `message`, `thread`, `worker` | the thread of a store, which runs operations in batches |
//! | `tables`, `statements`, `row` | the operations' view of the tables, the SQL, one row |
//! | `open_file`, `schema` | the open file; its layout |
//! | `file`, `inode`, `wal_files`, `presence` | the file, its identity, its log, and who else uses it |
//! | `machine` | the machine and the boot, by which times are comparable |
//! | `changes`, `shared` | notifications of changes; state shared with the thread |
//! | `error` | classifying errors |

mod changes;
mod config;
mod diagnose;
mod driver;
mod error;
mod file;
mod inode;
mod machine;
mod message;
mod open;
mod open_file;
mod ops;
mod pending_op;
mod presence;
mod row;
mod schema;
mod shared;
mod statements;
mod store;
mod tables;
mod thread;
mod wal_files;
mod worker;

pub use self::config::SqliteConfig;
pub use self::driver::SqliteDriver;
pub use self::store::SqliteStore;
