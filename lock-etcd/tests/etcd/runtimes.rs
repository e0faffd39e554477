//! One handle on several runtimes, of which one has ended and one is idle.

use std::sync::Arc;

use lock_core::{Attempt, Claim, Clock, LockStore, ReleaseOutcome};
use lock_etcd::{EtcdConfig, EtcdStore};
use tokio::runtime::{Builder, Runtime};

use crate::bed::{fresh, secs, shared, within_bound};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

async fn open() -> Arc<EtcdStore> {
    Arc::new(EtcdStore::connect(EtcdConfig::new(shared().endpoints()), &Clock::system()).await.unwrap())
}

async fn granted(store: &EtcdStore, claim: &Claim) {
    let attempt = within_bound("an answer", store.request(claim)).await.unwrap();
    assert!(matches!(attempt, Attempt::Granted(_)), "{attempt:?}");
}

/// Waits at the store, as the core does, until the claim is granted.
async fn waits(store: &EtcdStore, claim: &Claim) {
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
        let held = Claim::new(fresh("first"), secs(30));
        granted(&store, &held).await;
        (store, held)
    });
    drop(first);
    let second = runtime();
    second.block_on(async {
        let claim = Claim::new(fresh("second"), secs(30));
        granted(&store, &claim).await;
        assert_eq!(store.release(&claim).await.unwrap(), ReleaseOutcome::Held);
        assert_eq!(store.release(&held).await.unwrap(), ReleaseOutcome::Held);
    });
}

#[test]
fn a_runtime_that_is_idle_holds_nobody_up() {
    let (idle, busy) = (runtime(), runtime());
    let store = idle.block_on(open());
    let holder = Claim::new(fresh("idle"), secs(60));
    let name = holder.name().clone();
    idle.block_on(granted(&store, &holder));
    // A waiter of it has opened the watch, and stands still as it does.
    let waiting = store.clone();
    let first = Claim::queueing(name.clone(), secs(60));
    let place = first.clone();
    let task = idle.spawn(async move { waits(&waiting, &place).await });
    idle.block_on(async {
        crate::bed::until("its place", || async { crate::bed::keys(shared(), name.as_str()).len() == 2 }).await;
    });
    // A session of another TTL is being opened there.
    let opening = store.clone();
    let other = Claim::new(fresh("other"), secs(77));
    let cut_off = other.clone();
    idle.spawn(async move { opening.request(&cut_off).await });
    idle.block_on(async { tokio::task::yield_now().await });

    busy.block_on(async {
        let last = Claim::queueing(name.clone(), secs(60));
        assert!(matches!(within_bound("an answer", store.request(&last)).await.unwrap(), Attempt::Held(_)));
        let waiter = waits(&store, &last);
        assert_eq!(within_bound("a release", store.release(&holder)).await.unwrap(), ReleaseOutcome::Held);
        assert_eq!(within_bound("a withdrawal", store.release(&first)).await.unwrap(), ReleaseOutcome::Held);
        within_bound("its turn", waiter).await;
        granted(&store, &Claim::new(fresh("same-session"), secs(77))).await;
        store.release(&last).await.unwrap();
    });
    drop(task);
}
