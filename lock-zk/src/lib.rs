//! Locks in ZooKeeper, for work where a double hold is a bug.
//!
//! Programs use the facade `leasehold` with its feature `zk` and a URL such as
//! `zk://10.0.0.1,10.0.0.2,10.0.0.3/app`; this crate is what that URL opens. It can be used by
//! itself:
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use lock_core::{Clock, Locks, Result};
//! use lock_zk::{ZkConfig, ZkStore};
//!
//! # async fn example() -> Result<()> {
//! let config = ZkConfig::new(["10.0.0.1:2181", "10.0.0.2:2181", "10.0.0.3:2181"], "/app");
//! let store = ZkStore::connect(config, &Clock::system()).await?;
//! let locks = Locks::builder_of(Arc::new(store)).build();
//! let guard = locks.lock("invoice/42").acquire().await?;
//! println!("held with the token {:?}", guard.token_if_any());
//! guard.release().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Layout
//!
//! The layout in ZooKeeper is that of Curator's `InterProcessMutex`, so that it excludes us and is
//! excluded, in one queue: an ephemeral sequential node `<path>/<name>/_c_<guid>-lock-<number>` for
//! each holder and waiter; the one with the lowest number holds the lock. In a name, `/` and `%`,
//! and characters that ZooKeeper does not accept, are encoded as `%` and two digits.
//!
//! Renewed leases of one TTL share one session of ZooKeeper, so that thousands of held locks cost
//! one heartbeat. The fencing token is the `czxid` of the holder's node.
//!
//! # Limits
//!
//! - ZooKeeper 3.6 or later is needed.
//! - Acquiring, renewing and releasing need a quorum.
//! - A lease lasts at least four ticks of the servers, and at most their longest session.
//! - A fixed lease has a session, and so a connection, of its own.
//! - A restore from a backup is not survived: it needs a new realm.
//!
//! # Files
//!
//! | file | content |
//! |---|---|
//! | `config.rs` | [`ZkConfig`]: the settings, also from a URL |
//! | `driver.rs` | [`ZkDriver`]: opens `zk:` and `zks:` |
//! | `store.rs` | [`ZkStore`]: the contract; each method is a call of a file below |
//! | `connect.rs` | connecting, with the checks of the ensemble and its realm |
//! | `request.rs` | a request for a lock, by the entry of the claim or a new one |
//! | `enter.rs` | the creation of an entry at the end of the queue |
//! | `wait.rs` | waiting for the end of the entry before |
//! | `release.rs` | the deletion of an entry |
//! | `renewal.rs` | renewals, and what they show of the leases |
//! | `inspect.rs` | reads of one holder, and the list of all |
//! | `operator.rs` | breaking a lock |
//! | `diagnose.rs` | the findings for operators |
//! | `fence_condition.rs` | [`FenceCondition`]: for fenced writes inside ZooKeeper |
//! | `claim_state.rs` | the state that is kept with a claim |
//! | `entry.rs` | the record of a claim's entry, and its transitions |
//! | `queue.rs` | the entries of one lock, in their order |
//! | `entry_name.rs` | the name of an entry's node |
//! | `head.rs` | the first entry, with the content of its node |
//! | `record.rs` | the record of a holder in its node |
//! | `queue_reader.rs` | reads of queues that callers share |
//! | `uncontended.rs` | the read of the queue that an uncontended acquire saves |
//! | `factory.rs` | opens sessions that carry leases |
//! | `session.rs` | a session that carries leases |
//! | `heartbeat.rs` | its heartbeat |
//! | `session_client.rs` | calls on a session, with a bound on those in flight |
//! | `limit.rs` | the bound |
//! | `opener.rs` | opening a session |
//! | `resolver.rs` | the addresses of servers that answer |
//! | `realm.rs` | the realm, which is checked on every new session |
//! | `acl.rs` | the access control list of the nodes |
//! | `layout.rs` | the paths of all nodes |
//! | `nodes.rs` | operations on single nodes |
//! | `error.rs` | the classification of failures |
//! | `sync.rs` | futures with many waiters |

mod acl;
mod claim_state;
mod config;
mod connect;
mod diagnose;
mod driver;
mod enter;
mod entry;
mod entry_name;
mod error;
mod factory;
mod fence_condition;
mod head;
mod heartbeat;
mod inspect;
mod layout;
mod limit;
mod nodes;
mod opener;
mod operator;
mod queue;
mod queue_reader;
mod realm;
mod record;
mod release;
mod renewal;
mod request;
mod resolver;
mod session;
mod session_client;
mod store;
mod sync;
mod uncontended;
mod wait;

pub use self::config::{Login, ZkConfig};
pub use self::driver::ZkDriver;
pub use self::fence_condition::FenceCondition;
pub use self::store::ZkStore;
