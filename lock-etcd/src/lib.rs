//! Locks in etcd, for work where a double hold is a bug.
//!
//! Programs use the facade `leasehold` with its feature `etcd` and a URL such as
//! `etcd://10.0.0.1,10.0.0.2,10.0.0.3/app`; this crate is what that URL opens.
//!
//! The layout in etcd is that of etcd's own lock (`etcdctl lock`, Go's `concurrency.Mutex`), so that those exclude us
//! and are excluded, in one queue: a key `<prefix><name>/<number in hex>` on an etcd lease for each holder and waiter, and
//! the owner is who has the lowest create revision. In a name `/` is written `%2F` and `%` is written `%25`, so that no name is
//! another's prefix.
//!
//! Beside the locks stands a mark of the data, `<prefix>%realm`: a handle that finds another one, or another cluster, or data
//! that are older than before, loses all its locks and refuses to go on.
//!
//! Renewed leases of one TTL share one etcd lease, so that thousands of held locks cost one heartbeat. The fencing token
//! is the revision of the reading that found the own key first in line.

mod call;
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
mod members;
mod operator;
mod queue_entry;
mod realm_mark;
mod release_batcher;
mod release_queue;
mod reply;
mod session_pool;
mod store;
mod sync;
mod transactions;
mod watches;

pub use self::config::{EtcdConfig, Tls};
pub use self::diagnose::{Diagnosis, MemberDiagnosis};
pub use self::driver::EtcdDriver;
pub use self::fence_condition::FenceCondition;
pub use self::store::EtcdStore;
