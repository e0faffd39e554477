//! [`MemoryDriver`]: opens a [`MemoryStore`](super::MemoryStore) by its URL.

use std::sync::Arc;

use async_trait::async_trait;

use super::MemoryStore;
use crate::contract::LockStore;
use crate::open::{Driver, Registry, StoreKind, StoreUrl};
use crate::words::{Clock, Error, Result};

/// Driver of `memory:`. Each connection is a store of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryDriver;

#[async_trait]
impl Driver for MemoryDriver {
    fn kind(&self) -> StoreKind {
        StoreKind { schemes: &["memory"], example: "memory:", at_best: MemoryStore::new().guarantees(), provided: "" }
    }

    async fn open(&self, url: &StoreUrl, _all: &Registry, clock: &Clock) -> Result<Arc<dyn LockStore>> {
        url.only_keys(&[])?;
        if !url.path().is_empty() || !url.hosts().is_empty() {
            let text = format!("{url} is not accepted: the store in memory is memory: and has no path or host");
            return Err(Error::invalid_config(text));
        }
        Ok(Arc::new(MemoryStore::with_clock(clock.clone())))
    }
}
