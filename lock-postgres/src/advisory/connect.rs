//! Opening an [`AdvisoryStore`].

use std::sync::Arc;

use lock_core::kit::Sessions;
use lock_core::{Clock, Error, Result};

use super::connections::LockConnections;
use super::statements::AdvisoryStatements;
use super::store::AdvisoryStore;
use crate::config::{Mode, PostgresConfig};
use crate::connection::ConnectionKind;
use crate::database::Database;
use crate::realm_cache::RealmCache;
use crate::server_status::ServerStatus;
use crate::tables::{self, TableInfo};

impl AdvisoryStore {
    /// Connects, and checks the server and the tables. Sessions are stamped with `clock`: the locks
    /// must use the same one.
    ///
    /// # Errors
    ///
    /// As [`PostgresStore::connect`](crate::PostgresStore::connect);
    /// [`InvalidConfig`](lock_core::ErrorKind::InvalidConfig) behind a pooler that shares
    /// connections, which would leave locks with strangers.
    ///
    /// # Cancel safety
    ///
    /// It only reads.
    pub async fn connect(config: PostgresConfig, clock: &Clock) -> Result<AdvisoryStore> {
        config.check()?;
        let Mode::Advisory(form) = config.mode else {
            let text = "mode=rows is another store: connect to it with PostgresStore, or through the driver";
            return Err(Error::invalid_config(text));
        };
        let database = Database::open(&config).await?;
        if database.kind() == ConnectionKind::Pooled {
            let text = format!(
                "{}: a pooler that shares connections is in the way, and would leave advisory locks with strangers; connect to the server itself, or use lease rows",
                config.location()
            );
            return Err(Error::invalid_config(text));
        }
        let TableInfo { realm, is_logged } = tables::read(&database).await?;
        let server = ServerStatus::read(&database, is_logged).await?;
        server.warn();
        let database = Arc::new(database);
        let statements = Arc::new(AdvisoryStatements::new(&config.table));
        Ok(AdvisoryStore {
            guarantees: server.guarantees(config.mode),
            connections: Arc::new(LockConnections::new(database.clone(), statements.clone(), clock.clone())),
            sessions: Sessions::new(),
            realm: RealmCache::new(realm),
            database,
            form,
            statements,
        })
    }
}
