//! P5 and P6: unknown is an outcome, and a dropped acquisition leaves nothing behind.

use std::time::Duration;

use crate::hooked::{Fate, Hooked, SECOND};
use lock_core::*;
use tokio::time::{Instant, sleep, timeout};

fn name(text: &str) -> LockName {
    LockName::new(text).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_is_asked_for_again_and_gives_the_same_token() {
    let store = Hooked::new(MemoryStore::new());
    store.request.next(1, Fate::Broken);
    let guard = store.locks().lock("a").acquire().await.unwrap();
    assert_eq!((store.request.count(), guard.token_if_any().unwrap().number()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_is_cut_off_and_asked_again() {
    let store = Hooked::new(MemoryStore::new());
    store.request.next(1, Fate::Mute);
    let start = Instant::now();
    let guard = store.locks().lock("a").acquire().await.unwrap();
    assert_eq!(guard.token_if_any().unwrap().number(), 1);
    assert!(start.elapsed() < Locks::DEFAULT_CALL_TIMEOUT + SECOND);
}

#[tokio::test(start_paused = true)]
async fn an_acquire_dropped_with_its_request_under_way_is_finished_and_withdrawn() {
    let store = Hooked::new(MemoryStore::new());
    let locks = store.locks();
    store.request.next(1, Fate::Delayed(SECOND));
    assert!(timeout(SECOND / 2, locks.lock("a").acquire()).await.is_err());
    // The request is applied only now, after its acquire was dropped.
    sleep(SECOND).await;
    locks.close().await;
    assert_eq!(store.memory.inspect(&name("a")).await.unwrap(), None);
    assert_eq!(store.release.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_ghost_that_is_applied_after_its_withdrawal_is_withdrawn_too() {
    let store = Hooked::new(MemoryStore::new());
    let locks = Locks::builder(store.clone()).call_timeout(SECOND).build();
    let ghost = Claim::new(name("a"), 30 * SECOND);
    // A request is cut off; the server applies it ten seconds later.
    store.request.next(1, Fate::Refused);
    drop(ghost);
    store.request.next(1, Fate::Mute);
    let mut acquire = Box::pin(locks.lock("a").ttl(30 * SECOND).wait(Duration::ZERO).acquire());
    assert!(timeout(2 * SECOND, &mut acquire).await.unwrap().is_err());
    sleep(10 * SECOND).await;
    let before = store.release.count();
    sleep(20 * SECOND).await;
    assert!(store.release.count() > before, "withdrawing goes on, since the request may still be applied");
    locks.close().await;
    let after = store.release.count();
    sleep(60 * SECOND).await;
    assert_eq!(store.release.count(), after, "and ends after one TTL");
    assert_eq!(store.memory.inspect(&name("a")).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_is_dropped_leaves_the_queue() {
    let store = Hooked::new(MemoryStore::new());
    let locks = store.locks();
    let guard = locks.lock("a").acquire().await.unwrap();
    assert!(timeout(SECOND, locks.lock("a").acquire()).await.is_err());
    locks.close().await;
    guard.release().await.unwrap();
    assert!(store.locks().lock("a").try_acquire().await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_failed_try_whose_effect_is_unknown_is_withdrawn() {
    let store = Hooked::new(MemoryStore::new());
    let locks = store.locks();
    store.request.next(1, Fate::Broken);
    let error = locks.lock("a").ttl(SECOND).try_acquire().await.unwrap_err();
    assert!(error.may_have_taken_effect());
    locks.close().await;
    assert_eq!(store.memory.inspect(&name("a")).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_guard_is_given_back_and_close_waits_for_it() {
    let store = Hooked::new(MemoryStore::new());
    let locks = store.locks();
    store.release.next(1, Fate::Delayed(SECOND));
    drop(locks.lock("a").acquire().await.unwrap());
    locks.close().await;
    assert_eq!(store.memory.inspect(&name("a")).await.unwrap(), None);
    assert_eq!(locks.lock("a").acquire().await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_release_that_is_dropped_goes_on_in_the_background() {
    let store = Hooked::new(MemoryStore::new());
    let locks = store.locks();
    let guard = locks.lock("a").acquire().await.unwrap();
    store.release.next(1, Fate::Delayed(SECOND));
    assert!(timeout(SECOND / 2, guard.release()).await.is_err());
    locks.close().await;
    assert_eq!(store.memory.inspect(&name("a")).await.unwrap(), None);
    assert_eq!(store.release.count(), 1, "the one that was under way was finished");
}

#[tokio::test(start_paused = true)]
async fn a_release_without_an_answer_says_unknown_and_is_tried_again() {
    let store = Hooked::new(MemoryStore::new());
    let locks = store.locks();
    let guard = locks.lock("a").acquire().await.unwrap();
    store.release.next(1, Fate::Refused);
    assert_eq!(guard.release().await.unwrap_err().kind(), ErrorKind::Unavailable);
    locks.close().await;
    assert_eq!(store.memory.inspect(&name("a")).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_an_error_after_one_ttl_or_at_the_limit() {
    let store = Hooked::new(MemoryStore::new());
    store.request.all(Fate::Refused);
    for (lock, least) in [
        (store.locks().lock("a").ttl(20 * SECOND), 20 * SECOND),
        (store.locks().lock("a").ttl(20 * SECOND).wait(3 * SECOND), 3 * SECOND),
    ] {
        let start = Instant::now();
        assert_eq!(lock.acquire().await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert!((least..least + 2 * SECOND).contains(&start.elapsed()), "{:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_ends_says_who_holds_the_lock() {
    let store = Hooked::new(MemoryStore::new());
    let locks = Locks::builder(store.clone()).holder_info("nightly").build();
    let guard = locks.lock("a").acquire().await.unwrap();
    let error = store.locks().lock("a").wait(SECOND).acquire().await.unwrap_err();
    assert_eq!((error.kind(), error.held_by().unwrap().holder), (ErrorKind::Contended, Some(guard.holder())));
    assert!(error.to_string().contains("nightly"), "{error}");
}

#[test]
fn a_guard_dropped_without_a_runtime_is_given_back_by_the_next_one() {
    let store = Hooked::new(MemoryStore::new());
    let locks = store.locks();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let guard = runtime().block_on(locks.lock("a").acquire()).unwrap();
    drop(guard);
    assert_eq!(store.release.count(), 0);
    runtime().block_on(async {
        drop(locks.lock("b").acquire().await.unwrap());
        locks.close().await;
        assert_eq!(store.memory.inspect(&name("a")).await.unwrap(), None);
    });
}

#[test]
fn a_guard_whose_runtime_has_gone_is_renewed_by_the_next_one() {
    let store = Hooked::new(MemoryStore::new());
    let locks = store.locks();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let guard = runtime().block_on(locks.lock("a").ttl(30 * SECOND).acquire()).unwrap();
    runtime().block_on(async {
        let _other = locks.lock("b").acquire().await.unwrap();
        sleep(60 * SECOND).await;
        assert!(guard.is_valid());
    });
}

#[test]
fn acquiring_without_a_runtime_is_an_error() {
    let locks = Locks::new(MemoryStore::new());
    let mut acquire = std::pin::pin!(locks.lock("a").acquire());
    let waker = std::task::Waker::noop();
    match acquire.as_mut().poll(&mut std::task::Context::from_waker(waker)) {
        std::task::Poll::Ready(Err(error)) => assert_eq!(error.kind(), ErrorKind::InvalidConfig),
        other => panic!("{other:?}"),
    }
}
