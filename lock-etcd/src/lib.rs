//! Locks in etcd, for work where a double hold is a bug.
//!
//! Programs use the facade `leasehold` with its feature `etcd` and a URL such as
//! `etcd://10.0.0.1,10.0.0.2,10.0.0.3/app`; this crate is the store behind that URL.
//!
//! ```no_run
//! use lock_core::{Clock, Locks};
//! use lock_etcd::{EtcdConfig, EtcdStore};
//!
//! # async fn example() -> lock_core::Result<()> {
//! let config = EtcdConfig::new(["10.0.0.1:2379", "10.0.0.2:2379", "10.0.0.3:2379"]).prefix("app/");
//! let locks = Locks::new(EtcdStore::connect(config, &Clock::system()).await?);
//! let guard = locks.lock("invoice/42").acquire().await?;
//! guard.release().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Layout
//!
//! The layout is that of etcd's own lock (`etcdctl lock`, Go's `concurrency.Mutex`), so that those
//! exclude us and are excluded, in one queue. Each holder and waiter has a key
//! `<prefix><name>/<number in hex>` on an etcd lease, and the lock belongs to the key with the
//! lowest create revision. In a name `/` is encoded as `%2F` and `%` as `%25`, so that no name is a
//! prefix of another.
//!
//! Beside the locks stands the mark of the realm, `<prefix>%realm`. A handle that finds another
//! mark, another cluster, or older data than before loses all its locks and refuses every later
//! call.
//!
//! Renewed leases of one TTL share one etcd lease, so that thousands of held locks cost one
//! heartbeat. The fencing token is the revision of the reading that found the claim's key at the
//! head of the queue.
//!
//! # Limits
//!
//! - The TTL is in whole seconds, and etcd has a shortest one; a smaller or fractional one is
//!   raised.
//! - If no member is reached for a TTL, every guard is lost at its deadline.
//! - Etcd before 3.5.11 may end a renewed lease early after its leader was paused. Only a fence or
//!   a [`FenceCondition`] helps there; `diagnose` finds such servers.
//!
//! # Map of the files
//!
//! In reading order:
//!
//! | file | content |
//! |---|---|
//! | `store` | [`EtcdStore`]: the contract |
//! | `driver`, `config` | URLs and settings |
//! | `backend` | the state of one handle, and the calls that every operation uses |
//! | `request` | requests for locks, and waiting for them |
//! | `release` | releases, and the withdrawal of waiters |
//! | `renewal` | renewals, and the deletion of orphaned keys |
//! | `operator`, `diagnose` | inspecting, listing, breaking; the state of a cluster |
//! | `transactions` | the transactions on the queue of one lock |
//! | `queue_view`, `released_entry`, `lock_key` | the replies to them |
//! | `claim_state`, `queue_entry` | the state of one claim, and its entry in the queue |
//! | `holder_record`, `key_layout`, `key_pool` | the value of a key, its name, and its reuse |
//! | `realm_mark`, `fence_condition` | realm, fenced writes inside etcd |
//! | `lease_grant`, `shared_lease`, `heartbeat` | the etcd leases of locks, and their renewal |
//! | `watches` | the watches of the names that this process waits for |
//! | `release_queue`, `release_batcher` | releases that are sent in batches |
//! | `members`, `fail_over` | calls to the members, and their attempts |
//! | `call`, `reply`, `error` | the outcome of a call, of a reply, and of a failed attempt |
//! | `identity` | the cluster that a handle belongs to |
//! | `connections`, `concurrency_limit` | the connections of one runtime, and its calls in flight |

mod backend;
mod call;
mod claim_state;
mod concurrency_limit;
mod config;
mod connections;
mod diagnose;
mod driver;
mod error;
mod fail_over;
mod fence_condition;
mod heartbeat;
mod holder_record;
mod identity;
mod key_layout;
mod key_pool;
mod lease_grant;
mod lock_key;
mod members;
mod operator;
mod queue_entry;
mod queue_view;
mod realm_mark;
mod release;
mod release_batcher;
mod release_queue;
mod released_entry;
mod renewal;
mod reply;
mod request;
mod shared_lease;
mod store;
mod transactions;
mod watches;

pub use self::config::EtcdConfig;
pub use self::driver::EtcdDriver;
pub use self::fence_condition::FenceCondition;
pub use self::store::EtcdStore;
