//! The fixture of the tests: a shared server, stores, and waiting for conditions.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use lock_core::{Clock, HeldBy, LockGuard, LockName, Locks};
use lock_etcd::{EtcdConfig, EtcdStore};
use lock_testkit::{Etcd, WAIT_TIMEOUT};
use tokio::task::JoinHandle;

/// One member that all tests share that do not disturb it.
pub(crate) fn shared_server() -> &'static Etcd {
    static SHARED: OnceLock<Etcd> = OnceLock::new();
    SHARED.get_or_init(|| Etcd::start(1))
}

/// A name that no other test has.
pub(crate) fn unique_name(what: &str) -> LockName {
    static LAST: AtomicU32 = AtomicU32::new(0);
    LockName::new(format!("{what}-{}", LAST.fetch_add(1, Ordering::Relaxed))).unwrap()
}

pub(crate) async fn store(endpoints: Vec<String>) -> Arc<EtcdStore> {
    store_with(endpoints, Duration::from_millis(400)).await
}

/// A store that repeats no call, however busy the machine is.
pub(crate) async fn patient_store(endpoints: Vec<String>) -> Arc<EtcdStore> {
    store_with(endpoints, WAIT_TIMEOUT).await
}

async fn store_with(endpoints: Vec<String>, timeout: Duration) -> Arc<EtcdStore> {
    let mut config = EtcdConfig::new(endpoints);
    config.response_timeout = timeout;
    Arc::new(EtcdStore::connect(config, &Clock::system()).await.unwrap())
}

pub(crate) fn locks_on(store: &Arc<EtcdStore>, ttl: Duration) -> Locks {
    Locks::builder_of(store.clone()).ttl(ttl).build()
}

pub(crate) async fn locks(endpoints: Vec<String>, ttl: Duration) -> Locks {
    locks_on(&store(endpoints).await, ttl)
}

pub(crate) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The keys of a lock, as any client of etcd sees them.
pub(crate) fn keys(etcd: &Etcd, name: &str) -> Vec<String> {
    let output = etcd.etcdctl().args(["get", "--prefix", "--keys-only"]).arg(format!("{name}/")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// The etcd lease of a lock's only key, in hex.
pub(crate) fn lease_of(etcd: &Etcd, name: &str) -> String {
    let output = etcd.etcdctl().args(["get", "--prefix", "-w", "json"]).arg(format!("{name}/")).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (_, lease) = text.split_once("\"lease\":").unwrap();
    let lease: i64 = lease.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap();
    format!("{lease:x}")
}

/// Starts a waiter, and returns when it was notified of the holder.
pub(crate) async fn start_waiting(locks: &Locks, name: &str) -> JoinHandle<lock_core::Result<LockGuard>> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let sender = Mutex::new(Some(sender));
    let on_wait = move |_: &HeldBy| {
        let _ = sender.lock().unwrap().take().map(|sender| sender.send(()));
    };
    let waiter = tokio::spawn(locks.lock(name).on_wait(on_wait).acquire());
    receiver.await.unwrap();
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
