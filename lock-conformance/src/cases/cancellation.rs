//! P6: a future that is dropped at any await point leaves nothing behind.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use lock_core::{LockGuard, Locks};

use crate::case::cases;
use crate::context::{Context, name};
use crate::ensure::{CaseResult, ensure};
use crate::faults::{Call, Disturbance, Faulty};

cases! { "cancellation";
    [] {
        of_an_acquire_of_a_free_lock_leaves_nothing,
        of_a_try_leaves_nothing,
        of_a_waiting_acquire_leaves_no_place,
        of_a_release_still_releases,
        of_a_renewal_keeps_the_lease,
        of_the_runtime_leaves_what_another_runtime_gives_back,
    }
}

/// More await points than any of these futures has.
const MAX_POLLS: usize = 200;

/// Polls `work` at most `polls` times, once per wake-up, and drops it; returns its output if it
/// completed.
async fn poll_at_most<F: Future>(polls: usize, work: F) -> Option<F::Output> {
    let mut left = polls;
    let mut work = pin!(work);
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match work.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            // It is dropped at this await point.
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Wraps a store so that every call has an await point before and after it is applied.
fn with_await_points(store: Arc<dyn lock_core::LockStore>) -> Arc<Faulty> {
    let faulty = Faulty::new(store);
    faulty.always(Call::Request, Disturbance::DelayBoth(Duration::from_millis(2)));
    faulty.always(Call::Renew, Disturbance::Delay(Duration::from_millis(2)));
    faulty.always(Call::Release, Disturbance::DelayBoth(Duration::from_millis(2)));
    faulty
}

async fn of_an_acquire_of_a_free_lock_leaves_nothing(cx: Context) -> CaseResult {
    let (locks, b) = (cx.locks_on(with_await_points(cx.open().await?)), cx.open().await?);
    for polls in 1..MAX_POLLS {
        let job = name(&format!("job/{polls}"));
        let acquired = poll_at_most(polls, locks.lock(job.as_str()).acquire()).await;
        expect_free_unless(&cx, &b, &job, acquired.is_some()).await?;
        if let Some(guard) = acquired {
            ensure!(polls > 2, "the acquire has no await points");
            guard?.release().await?;
            return cx.expect_free(&b, &job).await;
        }
    }
    Err("the acquire came to no end".into())
}

async fn expect_free_unless(
    cx: &Context,
    store: &Arc<dyn lock_core::LockStore>,
    job: &lock_core::LockName,
    acquired: bool,
) -> CaseResult {
    if acquired { Ok(()) } else { cx.expect_free_soon(store, job).await }
}

async fn of_a_try_leaves_nothing(cx: Context) -> CaseResult {
    let (locks, b) = (cx.locks_on(with_await_points(cx.open().await?)), cx.open().await?);
    for polls in 1..MAX_POLLS {
        let job = name(&format!("job/{polls}"));
        let tried = poll_at_most(polls, locks.lock(job.as_str()).try_acquire()).await;
        expect_free_unless(&cx, &b, &job, tried.is_some()).await?;
        if let Some(guard) = tried {
            guard?.ok_or("a free lock was not granted")?.release().await?;
            return cx.expect_free(&b, &job).await;
        }
    }
    Err("the try came to no end".into())
}

async fn of_a_waiting_acquire_leaves_no_place(cx: Context) -> CaseResult {
    let (locks, b) = (cx.locks_on(with_await_points(cx.open().await?)), cx.open().await?);
    for polls in 1..12 {
        let job = name(&format!("job/{polls}"));
        let holder = cx.claim(&job);
        cx.expect_granted(&b, &holder).await?;
        let waited = poll_at_most(polls, locks.lock(job.as_str()).wait(cx.ttl).acquire()).await;
        ensure!(!matches!(waited, Some(Ok(_))), "a held lock was granted to a waiter");
        cx.release_held(&b, &holder).await?;
        cx.expect_free_soon(&b, &job).await?;
        // Nothing appears later either.
        locks.lock(job.as_str()).wait(cx.prompt_timeout()).acquire().await?.release().await?;
        if waited.is_some() {
            break;
        }
    }
    Ok(())
}

async fn of_a_release_still_releases(cx: Context) -> CaseResult {
    let (locks, b) = (cx.locks_on(with_await_points(cx.open().await?)), cx.open().await?);
    for polls in 1..MAX_POLLS {
        let job = name(&format!("job/{polls}"));
        let guard = locks.lock(job.as_str()).acquire().await?;
        let validity = guard.validity();
        let released = poll_at_most(polls, guard.release()).await;
        ensure!(!validity.is_valid(), "a guard is believed in whose release was begun");
        cx.expect_free_soon(&b, &job).await?;
        if let Some(released) = released {
            return Ok(released?);
        }
    }
    Err("the release came to no end".into())
}

async fn of_a_renewal_keeps_the_lease(cx: Context) -> CaseResult {
    let (locks, b) = (cx.locks_on(with_await_points(cx.open().await?)), cx.open().await?);
    let guard: LockGuard = locks.lock("job").acquire().await?;
    for polls in 1..MAX_POLLS {
        let renewed = poll_at_most(polls, guard.renew()).await;
        guard.check().map_err(|why| format!("a renewal that was dropped ended the lease: {why}"))?;
        cx.expect_held(&b, &cx.claim(&name("job"))).await?;
        if let Some(renewed) = renewed {
            renewed?;
            guard.renew().await?;
            guard.release().await?;
            return cx.expect_free(&b, &name("job")).await;
        }
    }
    Err("the renewal came to no end".into())
}

/// A guard that is dropped after its runtime has ended is released by the next runtime that uses
/// the locks.
async fn of_the_runtime_leaves_what_another_runtime_gives_back(cx: Context) -> CaseResult {
    let store = cx.open().await?;
    let locks: Locks = cx.locks_on(store.clone());
    let guard = locks.lock("job").acquire().await?;
    let dropped = std::thread::spawn(move || drop(guard)).join();
    ensure!(dropped.is_ok(), "dropping a guard outside a runtime panicked");
    // The next call on these locks releases it.
    locks.lock("other").acquire().await?.release().await?;
    cx.expect_free_soon(&cx.open().await?, &name("job")).await
}
