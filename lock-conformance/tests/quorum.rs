//! The suite on quorums of three and of five stores in memory.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use lock_conformance::{Deployment, Factory, Failure, async_trait};
use lock_core::{LockStore, MemoryStore, Quorum};

struct Of(usize);
struct Members(Vec<MemoryStore>);

#[async_trait]
impl Factory for Of {
    async fn deploy(&self) -> Result<Arc<dyn Deployment>, Failure> {
        Ok(Arc::new(Members((0..self.0).map(|_| MemoryStore::new()).collect())))
    }

    fn ttl(&self) -> Duration {
        Duration::from_millis(400)
    }
}

#[async_trait]
impl Deployment for Members {
    async fn open(&self) -> Result<Arc<dyn LockStore>, Failure> {
        let members = self.0.iter().map(|store| Arc::new(store.clone()) as Arc<dyn LockStore>);
        Ok(Arc::new(Quorum::open(members).await?))
    }
}

fn main() -> ExitCode {
    lock_conformance::run_each([
        ("three", Arc::new(Of(3)) as Arc<dyn Factory>),
        ("five", Arc::new(Of(5)) as Arc<dyn Factory>),
    ])
}
