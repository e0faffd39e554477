//! Servers that all cases share; each case has a prefix of its own.

use std::sync::Arc;
use std::time::Duration;

use lock_conformance::{Deployment, Factory, Failure, async_trait};
use lock_core::{Clock, LockStore, QuorumDriver, Registry};
use lock_redis::{RedisDriver, RedisStore};
use lock_testkit::unique_prefix;

/// A URL to which each case adds its prefix.
pub(crate) struct Shared(String);
struct Prefix(String);

impl Shared {
    /// Servers at this URL, with these keys, each followed by `&`.
    pub(crate) fn at(url: &str, keys: &str) -> Arc<dyn Factory> {
        Arc::new(Shared(format!("{url}?{keys}")))
    }
}

#[async_trait]
impl Factory for Shared {
    async fn deploy(&self) -> Result<Arc<dyn Deployment>, Failure> {
        // Generous, for a machine that is busy.
        let patience = "connect_timeout=30s&response_timeout=30s";
        Ok(Arc::new(Prefix(format!("{}{patience}&prefix={}", self.0, unique_prefix()))))
    }

    fn ttl(&self) -> Duration {
        Duration::from_millis(400)
    }

    fn finding_codes(&self) -> &'static [&'static str] {
        // A quorum has codes of its own beside those of its members.
        if self.0.starts_with("redlock:") { &[] } else { RedisStore::FINDING_CODES }
    }
}

#[async_trait]
impl Deployment for Prefix {
    async fn open(&self) -> Result<Arc<dyn LockStore>, Failure> {
        let known = Registry::new().with(RedisDriver).with(QuorumDriver::redlock());
        Ok(known.open(&self.0.parse()?, &Clock::system()).await?)
    }
}
