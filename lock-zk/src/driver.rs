//! [`ZkDriver`]: opens `zk:` and `zks:`.

use std::sync::Arc;

use lock_core::{Clock, Driver, Guarantees, LockStore, Registry, Result, StoreKind, StoreUrl, async_trait};

use crate::config::ZkConfig;
use crate::store::ZkStore;

/// Opens ZooKeeper at `zk://host,host/prefix`, and with TLS at `zks://`.
#[derive(Clone, Copy, Debug, Default)]
pub struct ZkDriver;

#[async_trait]
impl Driver for ZkDriver {
    fn kind(&self) -> StoreKind {
        StoreKind {
            schemes: &["zk", "zks"],
            example: "zk://10.0.0.1,10.0.0.2,10.0.0.3/app",
            at_best: Guarantees::of_consensus(3),
            provided: "the loss of a minority with 3 or more servers",
        }
    }

    async fn open(&self, url: &StoreUrl, _all: &Registry, clock: &Clock) -> Result<Arc<dyn LockStore>> {
        Ok(Arc::new(ZkStore::connect(ZkConfig::from_url(url)?, clock).await?))
    }
}
