//! The conformance suite on ZooKeeper: with one server, and with an ensemble of three.

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use lock_conformance::{Deployment, Factory, Failure, async_trait};
use lock_core::{Clock, LockStore};
use lock_testkit::ZooKeeper;
use lock_zk::{ZkConfig, ZkStore};
use tokio::sync::{OwnedRwLockReadGuard, RwLock};
use zookeeper_client::Client;

/// An ensemble that all cases share; each has a path of its own. With three servers, one is killed
/// halfway, between two cases.
struct Ensemble {
    count: usize,
    zookeeper: OnceLock<Arc<Mutex<ZooKeeper>>>,
    deployed: AtomicUsize,
    /// Read-locked during every case, and write-locked to kill a server.
    cases: Arc<RwLock<()>>,
}

struct Path {
    zookeeper: Arc<Mutex<ZooKeeper>>,
    path: String,
    _case: OwnedRwLockReadGuard<()>,
}

/// The case before which a server is killed.
const KILL_BEFORE_CASE: usize = 60;

#[async_trait]
impl Factory for Ensemble {
    async fn deploy(&self) -> Result<Arc<dyn Deployment>, Failure> {
        let start = || Arc::new(Mutex::new(ZooKeeper::start(self.count)));
        let zookeeper = self.zookeeper.get_or_init(start).clone();
        let case = self.deployed.fetch_add(1, Ordering::Relaxed);
        if case == KILL_BEFORE_CASE && self.count > 1 {
            let _none_runs = self.cases.write().await;
            let mut zookeeper = locked(&zookeeper);
            let follower = (zookeeper.leader() + 1) % self.count;
            zookeeper.server_mut(follower).kill();
        }
        let running = self.cases.clone().read_owned().await;
        Ok(Arc::new(Path { zookeeper, path: format!("/case{case}"), _case: running }))
    }

    /// Six ticks: a renewal takes one, and a case lets two of them fail before one that must come
    /// in time.
    fn ttl(&self) -> Duration {
        ZooKeeper::TICK * 6
    }

    fn finding_codes(&self) -> &'static [&'static str] {
        ZkStore::FINDING_CODES
    }

    fn ends_sessions(&self) -> bool {
        true
    }
}

#[async_trait]
impl Deployment for Path {
    async fn open(&self) -> Result<Arc<dyn LockStore>, Failure> {
        let mut config = ZkConfig::new(locked(&self.zookeeper).endpoints(), &self.path);
        config.tick = Some(ZooKeeper::TICK);
        Ok(Arc::new(ZkStore::connect(config, &Clock::system()).await?))
    }

    async fn end_sessions(&self) -> Result<(), Failure> {
        let endpoints = locked(&self.zookeeper).endpoints().join(",");
        let client = Client::connect(&endpoints).await?;
        for session in client.list_children(&format!("{}/%sessions", self.path)).await? {
            locked(&self.zookeeper).end_session(u64::from_str_radix(&session, 16)? as i64);
        }
        Ok(())
    }
}

fn locked(zookeeper: &Mutex<ZooKeeper>) -> MutexGuard<'_, ZooKeeper> {
    zookeeper.lock().unwrap_or_else(PoisonError::into_inner)
}

fn main() -> ExitCode {
    let of = |count| {
        let (zookeeper, deployed, cases) = Default::default();
        Arc::new(Ensemble { count, zookeeper, deployed, cases }) as Arc<dyn Factory>
    };
    lock_conformance::run_each([("one", of(1)), ("three", of(3))])
}
