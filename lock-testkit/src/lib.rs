//! Real servers and processes for leasehold's own tests: start, stop, kill, pause.
//!
//! Nothing here sleeps for a fixed time: a test waits [`until`] a condition holds. What does not happen within a
//! generous bound fails the test, and so does a program that is not installed.

mod clock;
mod etcd;
mod port;
mod postgres;
mod process;
mod proxy;
mod redis;
mod server;
mod until;
mod zookeeper;

pub use self::clock::WallClock;
pub use self::etcd::{Etcd, EtcdMember};
pub use self::port::free_port;
pub use self::postgres::{PgBouncer, PostgresServer};
pub use self::process::Process;
pub use self::proxy::Proxy;
pub use self::redis::{RedisCluster, RedisSentinels, RedisServer, SlotMigration, redlock_url, unique_prefix};
pub use self::server::Server;
pub use self::until::{WAIT_TIMEOUT, until};
pub use self::zookeeper::{ZooKeeper, ZooKeeperServer};
