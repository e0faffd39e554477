//! The suite on a master whose replica must acknowledge every grant and renewal.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use lock_conformance::{Deployment, Factory, Failure, async_trait};
use lock_core::LockStore;
use lock_redis::{RedisConfig, RedisStore};
use lock_testkit::{RedisServer, fresh_prefix};

/// Its URL; the servers are the main function's, and end with it.
struct Replicated(String);
struct Prefix(String);

#[async_trait]
impl Factory for Replicated {
    async fn deploy(&self) -> Result<Arc<dyn Deployment>, Failure> {
        Ok(Arc::new(Prefix(format!("{}?wait=1&wait_timeout=5s&prefix={}", self.0, fresh_prefix()))))
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
    let master = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let replica = RedisServer::replica_of(&master, &[]);
    let code = lock_conformance::run(Replicated(master.url()));
    drop((master, replica));
    code
}
