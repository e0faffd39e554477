//! ZooKeeper on private ports.

mod ensemble;
mod server;
mod session;

pub use self::ensemble::ZooKeeper;
pub use self::server::ZooKeeperServer;
