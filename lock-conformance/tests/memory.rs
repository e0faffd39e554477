//! The suite on the memory store: with a TTL for each lease, and with sessions that carry the leases.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use lock_conformance::{Deployment, Factory, Failure, async_trait};
use lock_core::{Clock, LockStore, MemoryStore};

struct Leases;
struct Sessions;
struct Data(MemoryStore);

#[async_trait]
impl Factory for Leases {
    async fn deploy(&self) -> Result<Arc<dyn Deployment>, Failure> {
        Ok(Arc::new(Data(MemoryStore::new())))
    }

    fn ttl(&self) -> Duration {
        Duration::from_millis(300)
    }

    fn finding_codes(&self) -> &'static [&'static str] {
        MemoryStore::FINDING_CODES
    }
}

#[async_trait]
impl Factory for Sessions {
    async fn deploy(&self) -> Result<Arc<dyn Deployment>, Failure> {
        Ok(Arc::new(Data(MemoryStore::with_sessions(Clock::system()))))
    }

    fn ttl(&self) -> Duration {
        Duration::from_millis(300)
    }

    fn finding_codes(&self) -> &'static [&'static str] {
        MemoryStore::FINDING_CODES
    }

    fn ends_sessions(&self) -> bool {
        true
    }
}

#[async_trait]
impl Deployment for Data {
    async fn open(&self) -> Result<Arc<dyn LockStore>, Failure> {
        Ok(Arc::new(self.0.clone()))
    }

    async fn end_sessions(&self) -> Result<(), Failure> {
        self.0.end_sessions();
        Ok(())
    }
}

fn main() -> ExitCode {
    lock_conformance::run_each([
        ("leases", Arc::new(Leases) as Arc<dyn Factory>),
        ("sessions", Arc::new(Sessions) as Arc<dyn Factory>),
    ])
}
