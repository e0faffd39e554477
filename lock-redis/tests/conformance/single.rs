//! One server for each case, which syncs every write and is restarted and paused.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lock_conformance::{Deployment, Factory, Failure, async_trait};
use lock_core::{Fault, Faults, LockStore};
use lock_redis::{RedisConfig, RedisStore};
use lock_testkit::RedisServer;

use crate::SYNCED;

/// One server for each case.
pub(crate) struct Single;

struct Server(Mutex<RedisServer>);

#[async_trait]
impl Factory for Single {
    async fn deploy(&self) -> Result<Arc<dyn Deployment>, Failure> {
        let server = RedisServer::start(SYNCED);
        Ok(Arc::new(Server(Mutex::new(server))))
    }

    fn ttl(&self) -> Duration {
        Duration::from_millis(400)
    }

    fn finding_codes(&self) -> &'static [&'static str] {
        RedisStore::FINDING_CODES
    }

    fn faults(&self) -> Faults {
        Faults::of(&[Fault::Crash, Fault::Pause])
    }
}

#[async_trait]
impl Deployment for Server {
    async fn open(&self) -> Result<Arc<dyn LockStore>, Failure> {
        // Generous, for a machine that is busy.
        let url = self.0.lock().map_err(|_| "poisoned")?.url() + "?connect_timeout=30s&response_timeout=30s";
        let url = url.parse()?;
        Ok(Arc::new(RedisStore::connect(RedisConfig::from_url(&url)?).await?))
    }

    async fn inflict(&self, fault: Fault) -> Result<(), Failure> {
        let mut server = self.0.lock().map_err(|_| "poisoned")?;
        match fault {
            Fault::Crash => server.restart(),
            _ => {
                server.pause();
                std::thread::sleep(Duration::from_millis(500));
                server.resume();
            }
        }
        Ok(())
    }
}
