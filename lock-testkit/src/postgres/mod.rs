//! PostgreSQL on private ports.

mod data_folder;
mod pgbouncer;
mod process_tree;
mod programs;
mod server;

pub use self::pgbouncer::PgBouncer;
pub use self::server::PostgresServer;
