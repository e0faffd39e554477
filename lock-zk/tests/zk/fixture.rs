//! The fixture of the tests: a shared server, stores, and waiting for conditions.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lock_core::{Clock, HeldBy, LockGuard, LockName, Locks};
use lock_testkit::{WAIT_TIMEOUT, ZooKeeper};
use lock_zk::{ZkConfig, ZkStore};
use tokio::task::JoinHandle;
use zookeeper_client::Client;

/// One server that all tests share that do not disturb it.
pub(crate) fn shared_server() -> &'static ZooKeeper {
    static SHARED: OnceLock<ZooKeeper> = OnceLock::new();
    SHARED.get_or_init(|| ZooKeeper::start(1))
}

/// A name that no other test has.
pub(crate) fn unique_name(what: &str) -> LockName {
    static LAST: AtomicU32 = AtomicU32::new(0);
    LockName::new(format!("{what}-{}", LAST.fetch_add(1, Ordering::Relaxed))).unwrap()
}

pub(crate) fn config(endpoints: Vec<String>) -> ZkConfig {
    let mut config = ZkConfig::new(endpoints, "/app");
    config.tick = Some(ZooKeeper::TICK);
    config
}

pub(crate) async fn store(endpoints: Vec<String>) -> Arc<ZkStore> {
    Arc::new(ZkStore::connect(config(endpoints), &Clock::system()).await.unwrap())
}

pub(crate) fn locks_on(store: &Arc<ZkStore>, ttl: Duration) -> Locks {
    Locks::builder_of(store.clone()).ttl(ttl).build()
}

pub(crate) async fn locks(endpoints: Vec<String>, ttl: Duration) -> Locks {
    locks_on(&store(endpoints).await, ttl)
}

pub(crate) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Another program's client.
pub(crate) async fn client(zookeeper: &ZooKeeper) -> Client {
    Client::connector().with_session_timeout(secs(60)).connect(&zookeeper.endpoints().join(",")).await.unwrap()
}

/// The paths of a lock's entries, as any client sees them, in the order of their creation.
pub(crate) async fn nodes(client: &Client, name: &str) -> Vec<String> {
    let folder = format!("/app/{name}");
    client.sync(&folder).await.unwrap();
    match client.list_children(&folder).await {
        Ok(mut children) => {
            children.sort_unstable_by_key(|child| child.rsplit_once('-').unwrap().1.to_owned());
            children.into_iter().map(|child| format!("{folder}/{child}")).collect()
        }
        Err(zookeeper_client::Error::NoNode) => Vec::new(),
        Err(error) => panic!("{error}"),
    }
}

/// The session of the node with this path.
pub(crate) async fn session_of(client: &Client, path: &str) -> i64 {
    client.check_stat(path).await.unwrap().unwrap().ephemeral_owner
}

/// Starts a waiter, and returns when it was notified of the holder.
pub(crate) async fn start_waiting(locks: &Locks, name: &LockName) -> JoinHandle<lock_core::Result<LockGuard>> {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let on_wait = move |_: &HeldBy| {
        // The receiver is gone after the first call.
        let _ = sender.send(());
    };
    let waiter = tokio::spawn(locks.lock(name).on_wait(on_wait).acquire());
    within_bound("a waiter's place", receiver.recv()).await.unwrap();
    waiter
}

/// Waits until a condition holds.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(WAIT_TIMEOUT, waiting).await.is_err() {
        panic!("{what}: not within {WAIT_TIMEOUT:?}");
    }
}

/// Awaits a future that must complete.
pub(crate) async fn within_bound<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(WAIT_TIMEOUT, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not within {WAIT_TIMEOUT:?}"),
    }
}
