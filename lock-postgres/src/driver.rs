//! [`PostgresDriver`]: opens stores by URL.

use std::sync::Arc;

use lock_core::{Clock, Driver, LockStore, Registry, Result, StoreKind, StoreUrl, async_trait};

use crate::advisory::AdvisoryStore;
use crate::config::{Mode, PostgresConfig};
use crate::store::PostgresStore;
use crate::{schema, server_status, tables};

/// Opens the URLs `postgres://` and `postgresql://`, and creates their tables.
#[derive(Clone, Copy, Debug, Default)]
pub struct PostgresDriver;

#[async_trait]
impl Driver for PostgresDriver {
    fn kind(&self) -> StoreKind {
        StoreKind {
            schemes: &["postgres", "postgresql"],
            example: "postgres://app@10.0.0.1/orders",
            at_best: server_status::AT_BEST,
            provided: "fsync is on, and no server that lags can take over",
        }
    }

    async fn open(&self, url: &StoreUrl, _all: &Registry, clock: &Clock) -> Result<Arc<dyn LockStore>> {
        let config = PostgresConfig::from_url(url)?;
        Ok(match config.mode {
            Mode::Rows => Arc::new(PostgresStore::connect(config).await?),
            Mode::Advisory(_) => Arc::new(AdvisoryStore::connect(config, clock).await?),
        })
    }

    fn init_script(&self, url: &StoreUrl) -> Result<Option<String>> {
        Ok(Some(schema::script(&PostgresConfig::from_url(url)?)))
    }

    async fn init(&self, url: &StoreUrl) -> Result<()> {
        tables::init(PostgresConfig::from_url(url)?).await
    }
}
