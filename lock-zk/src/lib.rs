//! Locks in ZooKeeper, for work where a double hold is a bug.
//!
//! Programs use the facade `leasehold` with its feature `zk` and a URL such as `zk://10.0.0.1,10.0.0.2,10.0.0.3/app`;
//! this crate is what that URL opens.
//!
//! The layout in ZooKeeper is that of Curator's `InterProcessMutex`, so that it excludes us and is excluded, in one queue:
//! an ephemeral sequential node `<path>/<name>/_c_<guid>-lock-<number>` for each holder and waiter, and the owner is who
//! has the lowest number. What ZooKeeper does not take in a name, and `/` and `%`, is written as `%` and two digits.
//!
//! Renewed leases of one TTL share one session of ZooKeeper, so that thousands of held locks cost one heartbeat. The
//! fencing token is the `czxid` of the holder's node.

mod config;
mod diagnose;
mod driver;
mod entry;
mod error;
mod fence_condition;
mod heartbeat;
mod layout;
mod limit;
mod opener;
mod operator;
mod queue;
mod queue_reader;
mod realm;
mod record;
mod resolver;
mod round;
mod session;
mod session_client;
mod store;
mod uncontended;

pub use self::config::{Login, Tls, ZkConfig};
pub use self::diagnose::{Diagnosis, ServerDiagnosis};
pub use self::driver::ZkDriver;
pub use self::fence_condition::FenceCondition;
pub use self::store::ZkStore;
