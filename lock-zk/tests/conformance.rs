//! The suite on ZooKeeper: with one server, and with an ensemble of three.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lock_conformance::{Deployment, Factory, Failure, async_trait};
use lock_core::{Clock, LockStore};
use lock_testkit::ZooKeeper;
use lock_zk::{ZkConfig, ZkStore};
use zookeeper_client::Client;

/// An ensemble of so many servers, which all cases share; each has a path of its own.
struct Ensemble(usize, OnceLock<Arc<ZooKeeper>>, AtomicU32);
struct Path(Arc<ZooKeeper>, String);

#[async_trait]
impl Factory for Ensemble {
    async fn deploy(&self) -> Result<Arc<dyn Deployment>, Failure> {
        let zookeeper = self.1.get_or_init(|| Arc::new(ZooKeeper::start(self.0))).clone();
        Ok(Arc::new(Path(zookeeper, format!("/case{}", self.2.fetch_add(1, Ordering::Relaxed)))))
    }

    fn ttl(&self) -> Duration {
        ZooKeeper::TICK * 4
    }

    fn ends_sessions(&self) -> bool {
        true
    }
}

#[async_trait]
impl Deployment for Path {
    async fn open(&self) -> Result<Arc<dyn LockStore>, Failure> {
        let mut config = ZkConfig::new(self.0.endpoints(), &self.1);
        config.tick = Some(ZooKeeper::TICK);
        Ok(Arc::new(ZkStore::connect(config, &Clock::system()).await?))
    }

    async fn end_sessions(&self) -> Result<(), Failure> {
        let client = Client::connect(&self.0.endpoints().join(",")).await?;
        for session in client.list_children(&format!("{}/%sessions", self.1)).await? {
            self.0.end_session(u64::from_str_radix(&session, 16)? as i64);
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    let of = |count| Arc::new(Ensemble(count, OnceLock::new(), AtomicU32::new(0))) as Arc<dyn Factory>;
    lock_conformance::run_each([("one", of(1)), ("three", of(3))])
}
