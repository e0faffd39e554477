//! One handle on several runtimes, of which one has ended and one is idle.

use std::sync::Arc;
use std::time::Duration;

use lock_core::{Attempt, Claim, Clock, LockStore, ReleaseOutcome};
use lock_etcd::{EtcdConfig, EtcdStore};
use tokio::runtime::{Builder, Runtime};

use crate::fixture::{secs, shared_server, unique_name, within_bound};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

async fn open() -> Arc<EtcdStore> {
    Arc::new(EtcdStore::connect(EtcdConfig::new(shared_server().endpoints()), &Clock::system()).await.unwrap())
}

async fn request_lock(store: &EtcdStore, claim: &Claim) {
    let attempt = within_bound("an answer", store.request(claim)).await.unwrap();
    assert!(matches!(attempt, Attempt::Granted(_)), "{attempt:?}");
}

/// Waits at the store, as the core does, until the claim is granted.
async fn wait_for_lock(store: &EtcdStore, claim: &Claim) {
    loop {
        match store.request(claim).await.unwrap() {
            Attempt::Granted(_) => return,
            Attempt::Held(held) => store.wait(claim, &held).await.unwrap(),
        }
    }
}

#[test]
fn a_store_that_was_opened_on_a_runtime_that_has_ended_goes_on() {
    let first = runtime();
    let (store, held) = first.block_on(async {
        let store = open().await;
        let held = Claim::new(unique_name("first"), secs(30));
        request_lock(&store, &held).await;
        (store, held)
    });
    drop(first);
    let second = runtime();
    second.block_on(async {
        let claim = Claim::new(unique_name("second"), secs(30));
        request_lock(&store, &claim).await;
        assert_eq!(store.release(&claim, Duration::ZERO).await.unwrap(), ReleaseOutcome::Held);
        assert_eq!(store.release(&held, Duration::ZERO).await.unwrap(), ReleaseOutcome::Held);
    });
}

#[test]
fn a_runtime_that_is_idle_holds_nobody_up() {
    let (idle, busy) = (runtime(), runtime());
    let store = idle.block_on(open());
    let holder = Claim::new(unique_name("idle"), secs(60));
    let name = holder.name().clone();
    idle.block_on(request_lock(&store, &holder));
    // Its waiter has opened the watch, and is not polled any more.
    let waiting = store.clone();
    let first = Claim::queueing(name.clone(), secs(60));
    let place = first.clone();
    let task = idle.spawn(async move { wait_for_lock(&waiting, &place).await });
    idle.block_on(async {
        crate::fixture::until("its place", || async {
            crate::fixture::keys(shared_server(), name.as_str()).len() == 2
        })
        .await;
    });
    // A session of another TTL is being opened on the idle runtime.
    let opening = store.clone();
    let other = Claim::new(unique_name("other"), secs(77));
    let cut_off = other.clone();
    idle.spawn(async move { opening.request(&cut_off).await });
    idle.block_on(async { tokio::task::yield_now().await });

    busy.block_on(async {
        let last = Claim::queueing(name.clone(), secs(60));
        assert!(matches!(within_bound("an answer", store.request(&last)).await.unwrap(), Attempt::Held(_)));
        let waiter = wait_for_lock(&store, &last);
        assert_eq!(
            within_bound("a release", store.release(&holder, Duration::ZERO)).await.unwrap(),
            ReleaseOutcome::Held
        );
        assert_eq!(
            within_bound("a withdrawal", store.release(&first, Duration::ZERO)).await.unwrap(),
            ReleaseOutcome::Held
        );
        within_bound("its turn", waiter).await;
        request_lock(&store, &Claim::new(unique_name("same-session"), secs(77))).await;
        store.release(&last, Duration::ZERO).await.unwrap();
    });
    drop(task);
}
