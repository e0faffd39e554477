//! Redis on private ports.

mod cluster;
mod masters;
mod sentinels;
mod server;
mod slot_migration;

pub use self::cluster::RedisCluster;
pub use self::sentinels::RedisSentinels;
pub use self::server::{RedisServer, redlock_url, unique_prefix};
pub use self::slot_migration::SlotMigration;
