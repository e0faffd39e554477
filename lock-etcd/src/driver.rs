//! [`EtcdDriver`]: opens `etcd:` and `etcds:`.

use std::sync::Arc;

use lock_core::{Clock, Driver, Guarantees, LockStore, Registry, Result, StoreKind, StoreUrl, async_trait};

use crate::config::EtcdConfig;
use crate::store::EtcdStore;

/// Opens etcd at `etcd://host,host/prefix`, and with TLS at `etcds://`.
#[derive(Clone, Copy, Debug, Default)]
pub struct EtcdDriver;

#[async_trait]
impl Driver for EtcdDriver {
    fn kind(&self) -> StoreKind {
        StoreKind {
            schemes: &["etcd", "etcds"],
            example: "etcd://10.0.0.1,10.0.0.2,10.0.0.3/app",
            at_best: Guarantees::of_consensus(3),
            provided: "the loss of a minority with 3 or more members",
        }
    }

    async fn open(&self, url: &StoreUrl, _all: &Registry, clock: &Clock) -> Result<Arc<dyn LockStore>> {
        Ok(Arc::new(EtcdStore::connect(EtcdConfig::from_url(url)?, clock).await?))
    }
}
