//! P5 and P6: unknown is an outcome, and a dropped acquisition leaves nothing behind.

use crate::watched::{SECOND, Watched};
use lock_conformance::faults::{Call, Disturbance};
use lock_core::*;
use tokio::time::{Instant, sleep, timeout};

fn name(text: &str) -> LockName {
    LockName::new(text).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_is_asked_for_again_and_gives_the_same_token() {
    let store = Watched::new(MemoryStore::new());
    store.script(Call::Request, [Disturbance::FailApplied]);
    let guard = store.locks().lock("a").acquire().await.unwrap();
    assert_eq!((store.calls(Call::Request), guard.token_if_any().unwrap().number()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_is_cut_off_and_asked_again() {
    let store = Watched::new(MemoryStore::new());
    store.script(Call::Request, [Disturbance::LoseReply]);
    let start = Instant::now();
    let guard = store.locks().lock("a").acquire().await.unwrap();
    assert_eq!(guard.token_if_any().unwrap().number(), 1);
    assert!(start.elapsed() < Locks::DEFAULT_CALL_TIMEOUT + SECOND);
}

#[tokio::test(start_paused = true)]
async fn an_acquire_dropped_with_its_request_under_way_is_finished_and_withdrawn() {
    let store = Watched::new(MemoryStore::new());
    let locks = store.locks();
    store.script(Call::Request, [Disturbance::Delay(SECOND)]);
    assert!(timeout(SECOND / 2, locks.lock("a").acquire()).await.is_err());
    // The request is applied only now, after its acquire was dropped.
    sleep(SECOND).await;
    locks.close().await;
    assert_eq!(store.memory.inspect(&name("a"), Space::Locks).await.unwrap(), []);
    assert_eq!(store.calls(Call::Release), 1);
}

#[tokio::test(start_paused = true)]
async fn a_ghost_that_is_applied_after_its_withdrawal_is_withdrawn_too() {
    let store = Watched::new(MemoryStore::new());
    let locks = store.locks();
    // The connection breaks; the server applies the request ten seconds later.
    store.script(Call::Request, [Disturbance::ApplyLate(10 * SECOND)]);
    assert!(locks.lock("a").ttl(30 * SECOND).try_acquire().await.is_err());
    sleep(9 * SECOND).await;
    assert!(store.calls(Call::Release) > 0, "the first withdrawal comes before it, and finds nothing");
    sleep(9 * SECOND).await;
    assert_eq!(store.memory.inspect(&name("a"), Space::Locks).await.unwrap(), []);
    locks.close().await;
    sleep(30 * SECOND).await;
    let withdrawals = store.calls(Call::Release);
    sleep(60 * SECOND).await;
    assert_eq!(store.calls(Call::Release), withdrawals, "withdrawing ends after one TTL");
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
    store.script(Call::Request, [Disturbance::FailApplied]);
    let error = locks.lock("a").ttl(SECOND).try_acquire().await.unwrap_err();
    assert!(error.may_have_taken_effect());
    locks.close().await;
    assert_eq!(store.memory.inspect(&name("a"), Space::Locks).await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_guard_is_given_back_and_close_waits_for_it() {
    let store = Watched::new(MemoryStore::new());
    let locks = store.locks();
    store.script(Call::Release, [Disturbance::Delay(SECOND)]);
    drop(locks.lock("a").acquire().await.unwrap());
    locks.close().await;
    assert_eq!(store.memory.inspect(&name("a"), Space::Locks).await.unwrap(), []);
    assert_eq!(locks.lock("a").acquire().await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_release_that_is_dropped_goes_on_in_the_background() {
    let store = Watched::new(MemoryStore::new());
    let locks = store.locks();
    let guard = locks.lock("a").acquire().await.unwrap();
    store.script(Call::Release, [Disturbance::Delay(SECOND)]);
    assert!(timeout(SECOND / 2, guard.release()).await.is_err());
    locks.close().await;
    assert_eq!(store.memory.inspect(&name("a"), Space::Locks).await.unwrap(), []);
    assert_eq!(store.calls(Call::Release), 1, "the one that was under way was finished");
}

#[tokio::test(start_paused = true)]
async fn a_release_without_an_answer_says_unknown_and_is_tried_again() {
    let store = Watched::new(MemoryStore::new());
    let locks = store.locks();
    let guard = locks.lock("a").acquire().await.unwrap();
    store.script(Call::Release, [Disturbance::Fail]);
    assert_eq!(guard.release().await.unwrap_err().kind(), ErrorKind::Unavailable);
    locks.close().await;
    assert_eq!(store.memory.inspect(&name("a"), Space::Locks).await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_an_error_after_one_ttl_or_at_the_limit() {
    let store = Watched::new(MemoryStore::new());
    store.always(Call::Request, Disturbance::Fail);
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

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_what_only_guards_against_a_late_request() {
    let store = Watched::new(MemoryStore::new());
    let locks = store.locks();
    store.script(Call::Request, [Disturbance::FailApplied]);
    let guard = locks.lock("a").ttl(600 * SECOND).acquire().await.unwrap();
    let start = Instant::now();
    guard.release().await.unwrap();
    locks.close().await;
    assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
    sleep(300 * SECOND).await;
    assert!(store.calls(Call::Release) > 1, "it goes on in the background");
    sleep(400 * SECOND).await;
    let releases = store.calls(Call::Release);
    sleep(600 * SECOND).await;
    assert_eq!(store.calls(Call::Release), releases);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_cut_off_more_than_one_ttl_ago_is_over() {
    let store = Watched::new(MemoryStore::new());
    let locks = store.locks();
    store.script(Call::Request, [Disturbance::FailApplied]);
    let guard = locks.lock("a").ttl(10 * SECOND).acquire().await.unwrap();
    sleep(60 * SECOND).await;
    drop(guard);
    locks.close().await;
    sleep(60 * SECOND).await;
    assert_eq!(store.calls(Call::Release), 1);
}

#[tokio::test(start_paused = true)]
async fn closing_ends_those_that_wait_and_takes_them_out_of_the_line() {
    for store in [Watched::new(MemoryStore::new()), Watched::polled(MemoryStore::new())] {
        let (holds, waits) = (store.locks(), store.locks());
        let guard = holds.lock("a").acquire().await.unwrap();
        let waiters: Vec<_> = (0..3).map(|_| tokio::spawn(waits.lock("a").acquire())).collect();
        sleep(SECOND).await;
        waits.close().await;
        guard.release().await.unwrap();
        assert!(holds.lock("a").try_acquire().await.unwrap().is_some(), "nobody is left in the line");
        for waiter in waiters {
            assert_eq!(waiter.await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_granted_while_the_locks_close_is_given_back() {
    let store = Watched::new(MemoryStore::new());
    let locks = store.locks();
    store.script(Call::Request, [Disturbance::DelayBoth(SECOND)]);
    let acquires = tokio::spawn(locks.lock("a").acquire());
    sleep(SECOND / 2).await;
    locks.close().await;
    assert_eq!(store.memory.inspect(&name("a"), Space::Locks).await.unwrap(), []);
    assert_eq!(acquires.await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test(start_paused = true)]
async fn closing_withdraws_those_that_nobody_polls() {
    let store = Watched::new(MemoryStore::new());
    let (holds, waits) = (store.locks(), store.locks());
    let guard = holds.lock("a").acquire().await.unwrap();
    let mut waiter = Box::pin(waits.lock("a").acquire());
    assert!(timeout(SECOND, &mut waiter).await.is_err());
    waits.close().await;
    guard.release().await.unwrap();
    assert!(holds.lock("a").try_acquire().await.unwrap().is_some(), "nobody is left in the line");
    assert_eq!(waiter.await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_release_that_is_cut_off_by_a_panic_goes_on() {
    let store = Watched::new(MemoryStore::new());
    let locks = store.locks();
    let guard = locks.lock("a").acquire().await.unwrap();
    store.script(Call::Release, [Disturbance::Delay(SECOND)]);
    let panics = tokio::spawn(async move {
        let mut release = Box::pin(guard.release());
        assert!(timeout(SECOND / 2, &mut release).await.is_err());
        let _release = release;
        panic!("while a release is under way");
    });
    assert!(panics.await.unwrap_err().is_panic());
    locks.close().await;
    assert_eq!(store.memory.inspect(&name("a"), Space::Locks).await.unwrap(), []);
}
