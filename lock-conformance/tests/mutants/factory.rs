//! [`Mutants`]: deploys the memory store with one flaw.

use std::sync::Arc;
use std::time::Duration;

use lock_conformance::{Deployment, Factory, Failure, async_trait};
use lock_core::{LockStore, MemoryStore};

use super::flaw::Flaw;
use super::mutant::Mutant;

/// Deploys the memory store with one flaw.
pub(crate) struct Mutants(pub(crate) Flaw);
struct Data(Mutant);

#[async_trait]
impl Factory for Mutants {
    async fn deploy(&self) -> Result<Arc<dyn Deployment>, Failure> {
        Ok(Arc::new(Data(Mutant::new(self.0))))
    }

    fn ttl(&self) -> Duration {
        Duration::from_millis(300)
    }

    fn finding_codes(&self) -> &'static [&'static str] {
        MemoryStore::FINDING_CODES
    }
}

#[async_trait]
impl Deployment for Data {
    async fn open(&self) -> Result<Arc<dyn LockStore>, Failure> {
        Ok(Arc::new(self.0.open()))
    }
}
