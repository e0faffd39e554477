//! Waiting: in order, with one remote waiter per name and process, and no hint trusted blindly.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use crate::watched::{SECOND, Watched};
use lock_conformance::faults::Call;
use lock_core::*;
use tokio::time::{Instant, sleep};

#[tokio::test(start_paused = true)]
async fn sixteen_waiters_of_one_process_are_one_remote_waiter_and_are_served_in_order() {
    let store = Watched::polled(MemoryStore::new());
    let locks = store.locks();
    let first = locks.lock("a").acquire().await.unwrap();
    let served = Arc::new(Mutex::new(Vec::new()));
    let mut waiters = Vec::new();
    for number in 0..16 {
        let (acquire, served) = (locks.lock("a").acquire(), served.clone());
        waiters.push(tokio::spawn(async move {
            let guard = acquire.await.unwrap();
            served.lock().unwrap().push(number);
            sleep(SECOND).await;
            guard.release().await.unwrap();
        }));
        sleep(SECOND / 100).await;
    }
    first.release().await.unwrap();
    for waiter in waiters {
        waiter.await.unwrap();
    }
    assert_eq!(*served.lock().unwrap(), (0..16).collect::<Vec<_>>());
    assert_eq!(store.seen.most_waits.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn who_begins_to_wait_after_another_was_seen_to_wait_is_behind_it() {
    let store = Watched::polled(MemoryStore::new());
    let locks = store.locks();
    let holder = locks.lock("a").acquire().await.unwrap();
    let later = Arc::new(Mutex::new(None));
    let (lock, begun) = (locks.lock("a"), later.clone());
    let begin_later = move |_: &HeldBy| {
        begun.lock().unwrap().get_or_insert_with(|| {
            let mut acquire = Box::pin(lock.acquire());
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(acquire.as_mut().poll(&mut context).is_pending());
            acquire
        });
    };
    let first = tokio::spawn(locks.lock("a").on_wait(begin_later).acquire());
    sleep(SECOND).await;
    let later = later.lock().unwrap().take().unwrap();
    let later = tokio::spawn(later);
    holder.release().await.unwrap();
    let first = tokio::time::timeout(60 * SECOND, first).await.unwrap().unwrap().unwrap();
    assert!(!later.is_finished());
    first.release().await.unwrap();
    later.await.unwrap().unwrap().release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn handing_over_within_a_process_takes_two_calls() {
    let store = Watched::polled(MemoryStore::new());
    let locks = store.locks();
    let first = locks.lock("a").acquire().await.unwrap();
    let waiters: Vec<_> = (0..10)
        .map(|_| {
            let acquire = locks.lock("a").acquire();
            tokio::spawn(async move { acquire.await.unwrap().release().await.unwrap() })
        })
        .collect();
    sleep(SECOND).await;
    let before = store.calls(Call::Request) + store.calls(Call::Release);
    first.release().await.unwrap();
    for waiter in waiters {
        waiter.await.unwrap();
    }
    let calls = store.calls(Call::Request) + store.calls(Call::Release) - before;
    assert!(calls <= 2 * 11, "{calls} calls for ten holders");
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_gives_up_lets_the_next_one_on() {
    for store in [Watched::polled(MemoryStore::new()), Watched::new(MemoryStore::new())] {
        let locks = store.locks();
        let holder = locks.lock("a").acquire().await.unwrap();
        let impatient = tokio::spawn(locks.lock("a").wait(SECOND).acquire());
        sleep(SECOND / 10).await;
        let patient = tokio::spawn(locks.lock("a").acquire());
        assert_eq!(impatient.await.unwrap().unwrap_err().kind(), ErrorKind::Contended);
        holder.release().await.unwrap();
        assert!(patient.await.unwrap().unwrap().is_valid());
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiter_passes_a_holder_that_died_when_its_lease_has_ended() {
    for store in [Watched::polled(MemoryStore::new()), Watched::new(MemoryStore::new())] {
        // A claim that is not renewed: its process has died.
        let dead = Claim::new(LockName::new("a").unwrap(), 10 * SECOND);
        assert!(matches!(store.memory.request(&dead).await.unwrap(), Attempt::Granted(_)));
        let start = Instant::now();
        let guard = store.locks().lock("a").ttl(30 * SECOND).acquire().await.unwrap();
        assert!(guard.is_valid());
        assert!((10 * SECOND..11 * SECOND).contains(&start.elapsed()), "{:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiter_is_told_who_is_ahead() {
    for store in [Watched::polled(MemoryStore::new()), Watched::new(MemoryStore::new())] {
        let locks = store.locks();
        let holder = locks.lock("a").acquire().await.unwrap();
        let reported = Arc::new(Mutex::new(Vec::new()));
        let listener = reported.clone();
        let lock = locks.lock("a").wait(SECOND).on_wait(move |by| listener.lock().unwrap().push(by.holder));
        assert!(lock.acquire().await.is_err());
        assert_eq!(reported.lock().unwrap().first(), Some(&Some(holder.holder())));
    }
}

#[tokio::test(start_paused = true)]
async fn a_try_takes_no_place_in_the_queue() {
    let store = Watched::new(MemoryStore::new());
    let locks = store.locks();
    let guard = locks.lock("a").acquire().await.unwrap();
    assert!(locks.lock("a").try_acquire().await.unwrap().is_none());
    guard.release().await.unwrap();
    assert!(locks.lock("a").try_acquire().await.unwrap().is_some());
}
