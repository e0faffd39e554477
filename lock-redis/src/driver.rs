//! [`RedisDriver`].

use std::sync::Arc;

use lock_core::{Clock, Driver, LockStore, Registry, Result, StoreKind, StoreUrl, async_trait};

use crate::config::RedisConfig;
use crate::guarantees::BEST_GUARANTEES;
use crate::store::RedisStore;

/// Opens `redis://`, `rediss://`, `redis+unix:`, `redis-sentinel://` and `redis-cluster://`.
#[derive(Clone, Copy, Debug, Default)]
pub struct RedisDriver;

#[async_trait]
impl Driver for RedisDriver {
    fn kind(&self) -> StoreKind {
        StoreKind {
            schemes: &["redis", "rediss", "redis+unix", "redis-sentinel", "redis-cluster"],
            example: "redis://10.0.0.1:6379/0",
            at_best: BEST_GUARANTEES,
            provided: "one server that syncs every write and has no replica",
        }
    }

    async fn open(&self, url: &StoreUrl, _all: &Registry, _clock: &Clock) -> Result<Arc<dyn LockStore>> {
        Ok(Arc::new(RedisStore::connect(RedisConfig::from_url(url)?).await?))
    }
}
