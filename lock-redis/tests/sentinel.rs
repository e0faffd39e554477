//! The suite on the master that three sentinels name.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use lock_conformance::{Deployment, Factory, Failure, async_trait};
use lock_core::LockStore;
use lock_redis::{RedisConfig, RedisStore};
use lock_testkit::{RedisSentinels, fresh_prefix};

/// Its URL; the servers are the main function's, and end with it.
struct Sentinels(String);
struct Prefix(String);

#[async_trait]
impl Factory for Sentinels {
    async fn deploy(&self) -> Result<Arc<dyn Deployment>, Failure> {
        Ok(Arc::new(Prefix(format!("{}?prefix={}", self.0, fresh_prefix()))))
    }

    fn ttl(&self) -> Duration {
        Duration::from_millis(400)
    }
}

#[async_trait]
impl Deployment for Prefix {
    async fn open(&self) -> Result<Arc<dyn LockStore>, Failure> {
        Ok(Arc::new(RedisStore::connect(RedisConfig::from_url(&self.0.parse()?)?).await?))
    }
}

fn main() -> ExitCode {
    let servers = RedisSentinels::start(&[]);
    let code = lock_conformance::run(Sentinels(servers.url()));
    drop(servers);
    code
}
