//! P5 and P6: unknown is an outcome, and a dropped acquisition leaves nothing behind.

use crate::watched::{SECOND, Watched};
use lock_conformance::faults::{Op, Step};
use lock_core::*;
use tokio::time::{Instant, sleep, timeout};

fn name(text: &str) -> LockName {
    LockName::new(text).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_is_asked_for_again_and_gives_the_same_token() {
    let store = Watched::new(MemoryStore::new());
    store.next(Op::Request, [Step::FailApplied]);
    let guard = store.locks().lock("a").acquire().await.unwrap();
    assert_eq!((store.calls(Op::Request), guard.token_if_any().unwrap().number()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_is_cut_off_and_asked_again() {
    let store = Watched::new(MemoryStore::new());
    store.next(Op::Request, [Step::LoseReply]);
    let start = Instant::now();
    let guard = store.locks().lock("a").acquire().await.unwrap();
    assert_eq!(guard.token_if_any().unwrap().number(), 1);
    assert!(start.elapsed() < Locks::DEFAULT_CALL_TIMEOUT + SECOND);
}

#[tokio::test(start_paused = true)]
async fn an_acquire_dropped_with_its_request_under_way_is_finished_and_withdrawn() {
    let store = Watched::new(MemoryStore::new());
    let locks = store.locks();
    store.next(Op::Request, [Step::Delay(SECOND)]);
    assert!(timeout(SECOND / 2, locks.lock("a").acquire()).await.is_err());
    // The request is applied only now, after its acquire was dropped.
    sleep(SECOND).await;
    locks.close().await;
    assert_eq!(store.memory.inspect(&name("a")).await.unwrap(), None);
    assert_eq!(store.calls(Op::Release), 1);
}

#[tokio::test(start_paused = true)]
async fn a_ghost_that_is_applied_after_its_withdrawal_is_withdrawn_too() {
    let store = Watched::new(MemoryStore::new());
    let locks = store.locks();
    // The connection breaks; the server applies the request ten seconds later.
    store.next(Op::Request, [Step::Ghost(10 * SECOND)]);
    assert!(locks.lock("a").ttl(30 * SECOND).try_acquire().await.is_err());
    sleep(9 * SECOND).await;
    assert!(store.calls(Op::Release) > 0, "the first withdrawal comes before it, and finds nothing");
    sleep(9 * SECOND).await;
    assert_eq!(store.memory.inspect(&name("a")).await.unwrap(), None);
    locks.close().await;
    let withdrawals = store.calls(Op::Release);
    sleep(60 * SECOND).await;
    assert_eq!(store.calls(Op::Release), withdrawals, "withdrawing ends after one TTL");
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_is_dropped_leaves_the_queue() {
    let store = Watched::new(MemoryStore::new());
    let locks = store.locks();
    let guard = locks.lock("a").acquire().await.unwrap();
    assert!(timeout(SECOND, locks.lock("a").acquire()).await.is_err());
    locks.close().await;
    guard.release().await.unwrap();
    assert!(store.locks().lock("a").try_acquire().await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_failed_try_whose_effect_is_unknown_is_withdrawn() {
    let store = Watched::new(MemoryStore::new());
    let locks = store.locks();
    store.next(Op::Request, [Step::FailApplied]);
    let error = locks.lock("a").ttl(SECOND).try_acquire().await.unwrap_err();
    assert!(error.may_have_taken_effect());
    locks.close().await;
    assert_eq!(store.memory.inspect(&name("a")).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_guard_is_given_back_and_close_waits_for_it() {
    let store = Watched::new(MemoryStore::new());
    let locks = store.locks();
    store.next(Op::Release, [Step::Delay(SECOND)]);
    drop(locks.lock("a").acquire().await.unwrap());
    locks.close().await;
    assert_eq!(store.memory.inspect(&name("a")).await.unwrap(), None);
    assert_eq!(locks.lock("a").acquire().await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_release_that_is_dropped_goes_on_in_the_background() {
    let store = Watched::new(MemoryStore::new());
    let locks = store.locks();
    let guard = locks.lock("a").acquire().await.unwrap();
    store.next(Op::Release, [Step::Delay(SECOND)]);
    assert!(timeout(SECOND / 2, guard.release()).await.is_err());
    locks.close().await;
    assert_eq!(store.memory.inspect(&name("a")).await.unwrap(), None);
    assert_eq!(store.calls(Op::Release), 1, "the one that was under way was finished");
}

#[tokio::test(start_paused = true)]
async fn a_release_without_an_answer_says_unknown_and_is_tried_again() {
    let store = Watched::new(MemoryStore::new());
    let locks = store.locks();
    let guard = locks.lock("a").acquire().await.unwrap();
    store.next(Op::Release, [Step::Fail]);
    assert_eq!(guard.release().await.unwrap_err().kind(), ErrorKind::Unavailable);
    locks.close().await;
    assert_eq!(store.memory.inspect(&name("a")).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_an_error_after_one_ttl_or_at_the_limit() {
    let store = Watched::new(MemoryStore::new());
    store.always(Op::Request, Step::Fail);
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
    let store = Watched::new(MemoryStore::new());
    let locks = store.builder().holder_info("nightly").build();
    let guard = locks.lock("a").acquire().await.unwrap();
    let error = store.locks().lock("a").wait(SECOND).acquire().await.unwrap_err();
    assert_eq!((error.kind(), error.held_by().unwrap().holder), (ErrorKind::Contended, Some(guard.holder())));
    assert!(error.to_string().contains("nightly"), "{error}");
}

#[test]
fn a_guard_dropped_without_a_runtime_is_given_back_by_the_next_one() {
    let store = Watched::new(MemoryStore::new());
    let locks = store.locks();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let guard = runtime().block_on(locks.lock("a").acquire()).unwrap();
    drop(guard);
    assert_eq!(store.calls(Op::Release), 0);
    runtime().block_on(async {
        drop(locks.lock("b").acquire().await.unwrap());
        locks.close().await;
        assert_eq!(store.memory.inspect(&name("a")).await.unwrap(), None);
    });
}

#[test]
fn a_guard_whose_runtime_has_gone_is_renewed_by_the_next_one() {
    let store = Watched::new(MemoryStore::new());
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
