//! [`SqliteDriver`]: opens stores by URL.

use std::sync::Arc;

use lock_core::{Clock, Driver, LockStore, Registry, Result, StoreKind, StoreUrl, async_trait};

use crate::config::SqliteConfig;
use crate::store::SqliteStore;

/// Opens the URL `sqlite:PATH`.
#[derive(Clone, Copy, Debug, Default)]
pub struct SqliteDriver;

#[async_trait]
impl Driver for SqliteDriver {
    fn kind(&self) -> StoreKind {
        StoreKind {
            schemes: &["sqlite"],
            example: "sqlite:/var/lib/app/locks.db",
            at_best: SqliteStore::AT_BEST,
            provided: "in a file on a disk",
        }
    }

    async fn open(&self, url: &StoreUrl, _all: &Registry, _clock: &Clock) -> Result<Arc<dyn LockStore>> {
        Ok(Arc::new(SqliteStore::open(SqliteConfig::from_url(url)?).await?))
    }

    async fn open_existing(&self, url: &StoreUrl, _all: &Registry, _clock: &Clock) -> Result<Arc<dyn LockStore>> {
        let config = SqliteConfig { existing: true, ..SqliteConfig::from_url(url)? };
        Ok(Arc::new(SqliteStore::open(config).await?))
    }
}
