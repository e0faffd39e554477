//! Leases belong to no runtime: the one that acquired may be idle, have ended, or not exist at all.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use lock_core::*;
use tokio::runtime::{Builder, Runtime};

use crate::watched::SECOND;

/// Long enough for a busy machine, short enough to hold for several of them.
const TTL: Duration = SECOND;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Waits for a future on this thread, without any runtime.
fn wait_for<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

async fn is_free(locks: &Locks, name: &str) -> bool {
    for _ in 0..1000 {
        if locks.inspect(name).await.unwrap().is_empty() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

/// Whichever runtime acquired first, a guard of another one is renewed, given back when it is
/// dropped, and waited for.
fn lives_beside(first: impl FnOnce(&Locks) -> Option<Runtime>) {
    let locks = Locks::new(MemoryStore::new());
    let _stands_still = first(&locks);
    let living = runtime();
    living.block_on(async {
        let guard = locks.lock("held").ttl(TTL).acquire().await.unwrap();
        tokio::time::sleep(4 * TTL).await;
        assert!(guard.is_valid());
        drop(guard);
        assert!(is_free(&locks, "held").await);
        drop(locks.lock("dropped").acquire().await.unwrap());
        locks.close().await;
    });
}

#[test]
fn a_lease_is_kept_although_the_runtime_that_acquired_first_stands_still() {
    lives_beside(|locks| {
        let runtime = runtime();
        drop(runtime.block_on(locks.lock("first").acquire()).unwrap());
        Some(runtime)
    });
}

#[test]
fn a_lease_is_kept_although_the_runtime_that_acquired_first_has_ended() {
    lives_beside(|locks| {
        drop(runtime().block_on(locks.lock("first").acquire()).unwrap());
        None
    });
}

#[test]
fn a_guard_of_a_runtime_that_is_driven_now_and_then_is_renewed() {
    let locks = Locks::new(MemoryStore::new());
    let runtime = runtime();
    let guard = runtime.block_on(locks.lock("a").ttl(TTL).acquire()).unwrap();
    std::thread::sleep(4 * TTL);
    assert!(guard.is_valid());
    runtime.block_on(guard.release()).unwrap();
    runtime.block_on(locks.close());
}

#[test]
fn a_guard_of_a_runtime_that_has_ended_is_renewed_and_given_back() {
    let locks = Locks::new(MemoryStore::new());
    let guard = runtime().block_on(locks.lock("a").ttl(TTL).acquire()).unwrap();
    std::thread::sleep(4 * TTL);
    assert!(guard.is_valid());
    drop(guard);
    assert!(runtime().block_on(is_free(&locks, "a")));
}

#[test]
fn everything_works_without_a_runtime() {
    let locks = Locks::new(MemoryStore::new());
    let other = locks.clone();
    let guard = wait_for(locks.lock("a").ttl(TTL).acquire()).unwrap();
    let waiter = std::thread::spawn(move || wait_for(other.lock("a").wait(60 * SECOND).acquire()).map(drop));
    wait_for(guard.renew()).unwrap();
    assert_eq!(wait_for(locks.inspect("a")).unwrap().pop().unwrap().holder, Some(guard.holder()));
    assert_eq!(wait_for(locks.list(None, 9)).unwrap().len(), 1);
    wait_for(guard.while_held(async { std::thread::sleep(3 * TTL) })).unwrap();
    let seen = wait_for(locks.inspect("a")).unwrap().pop().unwrap();
    let late = wait_for(locks.lock("a").wait(Duration::from_millis(10)).acquire()).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Contended);
    wait_for(locks.break_lock("a", &seen, BreakMode::Now)).unwrap();
    wait_for(guard.lost());
    assert_eq!(wait_for(guard.release()).unwrap_err().kind(), ErrorKind::Lost);
    waiter.join().unwrap().unwrap();
    wait_for(Registry::new().with(MemoryDriver).connect("memory:").into_future()).unwrap();
    wait_for(locks.close());
}

#[test]
fn a_runtime_without_timers_is_as_good_as_none() {
    let runtime = Builder::new_current_thread().build().unwrap();
    let locks = Locks::new(MemoryStore::new());
    runtime.block_on(async {
        let guard = locks.lock("a").ttl(TTL).acquire().await.unwrap();
        let late = locks.lock("a").wait(Duration::from_millis(10)).acquire().await.unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Contended);
        guard.while_held(async { std::thread::sleep(3 * TTL) }).await.unwrap();
        guard.release().await.unwrap();
        locks.close().await;
    });
}

#[test]
fn a_loop_over_a_store_that_answers_at_once_lets_others_run() {
    runtime().block_on(async {
        let locks = Locks::new(MemoryStore::new());
        let ran = Arc::new(AtomicBool::new(false));
        let other = ran.clone();
        tokio::spawn(async move { other.store(true, Ordering::Relaxed) });
        for _ in 0..10_000 {
            locks.lock("a").acquire().await.unwrap().release().await.unwrap();
        }
        assert!(ran.load(Ordering::Relaxed));
    });
}
