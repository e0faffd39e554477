//! Real servers and processes for leasehold's own tests: start, stop, kill, pause.
//!
//! Nothing here sleeps for a fixed time: a test waits [`until`] a condition holds, and fails after
//! [`WAIT_TIMEOUT`]. A program that is not installed fails the test too.
//!
//! | file | content |
//! |---|---|
//! | `until.rs` | waiting for a condition |
//! | `port.rs` | private ports |
//! | `process.rs`, `kill_on_exit.rs` | a child process; its end when the test program exits early |
//! | `clock.rs`, `clock.c` | a wall clock that a test sets |
//! | `proxy.rs` | a TCP proxy that holds, cuts, delays and loses replies |
//! | `server.rs` | operations that all servers share |
//! | `redis/`, `etcd/`, `postgres/`, `zookeeper/` | the servers |

mod clock;
mod etcd;
mod kill_on_exit;
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
