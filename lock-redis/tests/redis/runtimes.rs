//! Programs with several runtimes, any of which may be idle or have ended.

use std::sync::Arc;
use std::time::Duration;

use lock_core::{Claim, Clock, LockStore, ReleaseOutcome, RenewalBatch, RenewalOutcome};
use lock_redis::{RedisConfig, RedisStore};
use tokio::runtime::{Builder, Runtime};

use crate::fixture::{LONG, grant, name, open, server};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Requests, renews, waits and releases.
async fn use_it(store: &RedisStore, held: &Claim) {
    let batch = RenewalBatch::new(&Clock::system(), [held.clone()]);
    store.renew(&batch).await.unwrap();
    assert!(matches!(batch.iter().next().unwrap().outcome(), Some(RenewalOutcome::HeldFor(_))));
    let claim = Claim::new(name("other"), LONG);
    grant(store, &claim).await;
    let held = lock_core::Contention::new(lock_core::HeldBy::default(), LONG);
    store.wait(&Claim::new(name("other"), LONG), &held).await.unwrap();
    assert_eq!(store.release(&claim, Duration::ZERO).await.unwrap(), ReleaseOutcome::Held);
}

#[test]
fn a_runtime_that_is_idle_or_has_ended_keeps_no_other_from_the_store() {
    let server = server();
    let (idle, ended, other) = (runtime(), runtime(), runtime());
    // A reply that another runtime has to read would not come within this time.
    let url = format!("{}?connect_timeout=20s&response_timeout=20s", server.url());
    let config = RedisConfig::from_url(&url.parse().unwrap()).unwrap();
    let store = Arc::new(idle.block_on(RedisStore::connect(config)).unwrap());
    let held = Claim::new(name("held"), LONG);
    idle.block_on(grant(&store, &held));
    ended.block_on(use_it(&store, &held));
    drop(ended);
    let used = other.block_on(async { tokio::time::timeout(LONG / 60, use_it(&store, &held)).await });
    used.expect("nobody waits for the runtime that is idle");
    idle.block_on(use_it(&store, &held));
}

#[test]
fn a_runtime_that_has_ended_leaves_no_connection_behind() {
    let server = server();
    let clients = || server.cli(&["CLIENT", "LIST"]).lines().count();
    let store = runtime().block_on(open(&server.url()));
    let before = clients();
    for _ in 0..3 {
        runtime().block_on(use_it_once(&store));
    }
    lock_testkit::until("the end of their connections", || (clients() <= before).then_some(()));
}

async fn use_it_once(store: &RedisStore) {
    let claim = Claim::new(name("job"), LONG);
    grant(store, &claim).await;
    assert_eq!(store.release(&claim, Duration::ZERO).await.unwrap(), ReleaseOutcome::Held);
}
