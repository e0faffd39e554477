//! Opening a [`PostgresStore`], and its methods beside the contract.

use std::sync::Arc;
use std::time::Duration;

use lock_core::{Error, Fault, Result};

use crate::batcher::Batcher;
use crate::config::{Mode, PostgresConfig};
use crate::connection::ConnectionKind;
use crate::database::Database;
use crate::fence::FenceCondition;
use crate::pruner::Pruner;
use crate::realm_cache::RealmCache;
use crate::row_decoder::RowDecoder;
use crate::server_status::ServerStatus;
use crate::statements::Statements;
use crate::store::PostgresStore;
use crate::tables::{self, TableInfo};
use crate::wakeups::Wakeups;

impl PostgresStore {
    /// Connects, finds out whether a pooler is in the way, reads what the server says of itself and
    /// of its data, and warns of what endangers locks.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](lock_core::ErrorKind::InvalidConfig) for settings that cannot be used, and
    /// where the tables are missing, of a newer program, or of the other mode;
    /// [`Denied`](lock_core::ErrorKind::Denied) for a wrong login or missing rights;
    /// [`Unavailable`](lock_core::ErrorKind::Unavailable) or
    /// [`TimedOut`](lock_core::ErrorKind::TimedOut) within the connect time-out.
    ///
    /// # Cancel safety
    ///
    /// It only reads, except that it records beside the table that there is a standby.
    pub async fn connect(config: PostgresConfig) -> Result<PostgresStore> {
        config.check()?;
        if config.mode != Mode::Rows {
            let text = "mode=advisory is another store: connect to it with AdvisoryStore, or through the driver";
            return Err(Error::invalid_config(text));
        }
        let database = Database::open(&config).await?;
        let TableInfo { realm, is_logged } = tables::read(&database).await?;
        let server = ServerStatus::read(&database, is_logged).await?;
        server.warn();
        let guarantees = server.guarantees(Mode::Rows);
        let (database, statements) = (Arc::new(database), Arc::new(Statements::new(&config.table)));
        let decoder = Arc::new(RowDecoder {
            realm: RealmCache::new(realm),
            retains_all: guarantees.records_survive.contains(Fault::PowerLoss.into()),
            poll_interval: (database.kind() == ConnectionKind::Pooled).then_some(config.poll_interval),
        });
        let pruner = Arc::new(Pruner::new(&statements, &config));
        Ok(PostgresStore {
            batcher: Batcher::new(&database, &statements, &decoder, &pruner),
            wakeups: Wakeups::new(&database),
            guarantees,
            decoder,
            pruner,
            statements,
            database,
        })
    }

    /// The fence for transactions in the same database.
    pub fn fence_condition(&self) -> FenceCondition {
        FenceCondition::of(&self.database.config().table)
    }

    /// Removes the rows of names that nobody has locked for `idle`, in small steps along the names;
    /// returns how many. A part of that also happens by itself while names are added, for
    /// [`prune_after`](PostgresConfig::prune_after). Later tokens of these names are above all that
    /// were given before.
    ///
    /// # Errors
    ///
    /// As for [`request`](lock_core::LockStore::request).
    ///
    /// # Cancel safety
    ///
    /// Rows that were removed until then stay removed.
    pub async fn prune(&self, idle: Duration) -> Result<u64> {
        self.pruner.prune_all(&self.database, idle).await
    }
}
