//! The store of leasehold in Redis: one server, the master that sentinels name, or a cluster.
//!
//! A lock is one key with one expiry: `lock:` and the name. It excludes other clients that keep a
//! text at the same key, and is excluded by them. Each step of the contract is one script, and a
//! release notifies the waiters by a message.
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
//! - A lock and its token survive only the faults that the server's data survives. Without
//!   persistence a restart forgets the holder of a lock, and so does a fail-over to a replica that
//!   lags. [`RedisStore`] reads the server's settings and declares no more.
//! - A lease ends by the server's wall clock. If that is set forward, leases end early while their
//!   holders still believe in them; if it is set back, they end late.
//! - There is no fairness across processes: the first request after a release has the lock.
//!
//! # Map of the files
//!
//! In the order in which they are best read:
//!
//! | file | what is in it |
//! |---|---|
//! | `store` | [`RedisStore`] and the contract; each method leads to one of the next modules |
//! | `request`, `renewal`, `release` | the life of a lease |
//! | `listing`, `operator` | inspecting, listing and breaking locks |
//! | `realm` | the realm of the data, and scripts that depend on it |
//! | `quorum_member` | raising tokens and keeping a record, for a quorum |
//! | `replication`, `acknowledgement` | waiting for replicas, and sharing one `WAIT` |
//! | `connect` | opening a store |
//! | `config`, `topology`, `tls`, `driver` | settings, URLs, certificates |
//! | `keys`, `value`, `tokens` | the layout in Redis, and the tokens known here |
//! | `script`, `script_call`, `reply` | the Lua scripts of `scripts/`, their calls and replies |
//! | `slot_batcher` | requests and releases of the same time, sent in one call |
//! | `router`, `routed`, `cluster`, `slot_map` | from a slot to the node that owns it |
//! | `connections` | router, batcher and acknowledgement of one runtime |
//! | `node`, `connection` | one server and its connection |
//! | `connector`, `endpoint` | opening a connection, by sentinels too |
//! | `subscriptions` | channels on which releases are published |
//! | `detached` | work that outlives its caller |
//! | `server_info`, `guarantees`, `diagnose` | a server's report, its guarantees, the findings for operators |
//! | `error` | classification of the client crate's errors |

mod acknowledgement;
mod cluster;
mod config;
mod connect;
mod connection;
mod connections;
mod connector;
mod detached;
mod diagnose;
mod driver;
mod endpoint;
mod error;
mod guarantees;
mod keys;
mod listing;
mod node;
mod operator;
mod quorum_member;
mod realm;
mod release;
mod renewal;
mod replication;
mod reply;
mod request;
mod routed;
mod router;
mod script;
mod script_call;
mod server_info;
mod slot_batcher;
mod slot_map;
mod store;
mod subscriptions;
mod tls;
mod tokens;
mod topology;
mod value;

pub use self::config::RedisConfig;
pub use self::driver::RedisDriver;
pub use self::store::RedisStore;
pub use self::topology::Topology;
