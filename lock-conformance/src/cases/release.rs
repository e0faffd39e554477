//! P3 and P6: a release frees the lock of its own holder, completely.

use std::time::Duration;

use lock_core::{Claim, ErrorKind, ReleaseOutcome, Space};

use crate::case::cases;
use crate::context::{Context, name};
use crate::ensure::{CaseResult, ensure};
use crate::faults::{Call, Disturbance, Faulty};
use crate::requirement::Requirement;

cases! { "release";
    [] {
        frees_the_lock_at_once,
        of_a_lock_that_is_not_held_succeeds,
        twice_finds_nothing_the_second_time,
        by_a_stranger_changes_nothing,
        by_an_earlier_holder_of_the_same_handle_does_not_free_a_newer_lock,
        by_an_earlier_holder_of_another_handle_does_not_free_a_newer_lock,
        of_one_name_leaves_the_others,
        of_a_guard_says_that_it_was_held,
        of_a_broken_guard_says_that_it_was_lost,
        of_a_dropped_guard_happens_in_the_background,
        that_fails_goes_on_in_the_background,
    }
    [Requirement::Queue] { by_a_waiter_gives_up_its_place, by_a_stranger_takes_no_place_from_a_waiter }
    [Requirement::TimedExpiry] { after_the_end_of_the_lease_finds_nothing }
}

async fn frees_the_lock_at_once(cx: Context) -> CaseResult {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    for _ in 0..5 {
        let claim = cx.claim(&job);
        cx.expect_granted(&a, &claim).await?;
        cx.release_held(&a, &claim).await?;
        cx.expect_free(&b, &job).await?;
    }
    Ok(())
}

async fn of_a_lock_that_is_not_held_succeeds(cx: Context) -> CaseResult {
    let (store, job) = (cx.open().await?, name("never held"));
    for claim in [cx.claim(&job), cx.queueing_claim(&job)] {
        let found = store.release(&claim, Duration::ZERO).await?;
        ensure!(found == ReleaseOutcome::NotHeld, "the release of a lock that nobody held found {found:?}");
    }
    cx.expect_free(&store, &job).await
}

async fn twice_finds_nothing_the_second_time(cx: Context) -> CaseResult {
    let (store, job) = (cx.open().await?, name("job"));
    let claim = cx.claim(&job);
    cx.expect_granted(&store, &claim).await?;
    cx.release_held(&store, &claim).await?;
    let found = store.release(&claim, Duration::ZERO).await?;
    ensure!(found == ReleaseOutcome::NotHeld, "the second release found {found:?}");
    cx.expect_free(&store, &job).await
}

async fn by_a_stranger_changes_nothing(cx: Context) -> CaseResult {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let holder = cx.claim(&job);
    cx.expect_granted(&a, &holder).await?;
    for (handle, stranger) in [(&a, cx.claim(&job)), (&b, cx.claim(&job)), (&b, cx.queueing_claim(&job))] {
        let found = handle.release(&stranger, Duration::ZERO).await?;
        ensure!(found == ReleaseOutcome::NotHeld, "a stranger's release found {found:?}");
        cx.expect_holder(&b, &holder).await?;
        cx.expect_held(&b, &cx.claim(&job)).await?;
    }
    cx.release_held(&a, &holder).await
}

async fn by_an_earlier_holder_of_the_same_handle_does_not_free_a_newer_lock(cx: Context) -> CaseResult {
    stale_release(cx, true).await
}

async fn by_an_earlier_holder_of_another_handle_does_not_free_a_newer_lock(cx: Context) -> CaseResult {
    stale_release(cx, false).await
}

async fn stale_release(cx: Context, same: bool) -> CaseResult {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let earlier = cx.claim(&job);
    cx.expect_granted(&a, &earlier).await?;
    cx.release_held(&a, &earlier).await?;
    let now = cx.claim(&job);
    let holder = if same { &a } else { &b };
    cx.expect_granted(holder, &now).await?;
    let found = a.release(&earlier, Duration::ZERO).await?;
    ensure!(found == ReleaseOutcome::NotHeld, "a stale release found {found:?}");
    // A store that retries releases by itself would do so within this time.
    tokio::time::sleep(cx.ttl / 2).await;
    cx.expect_holder(&b, &now).await?;
    cx.expect_held(&b, &cx.claim(&job)).await?;
    cx.release_held(holder, &now).await
}

async fn of_one_name_leaves_the_others(cx: Context) -> CaseResult {
    let store = cx.open().await?;
    let names = ["a", "a/b", "b"].map(name);
    let claims: Vec<Claim> = names.iter().map(|name| cx.claim(name)).collect();
    for claim in &claims {
        cx.expect_granted(&store, claim).await?;
    }
    cx.release_held(&store, &claims[0]).await?;
    for claim in &claims[1..] {
        cx.expect_holder(&store, claim).await?;
        cx.release_held(&store, claim).await?;
    }
    Ok(())
}

async fn of_a_guard_says_that_it_was_held(cx: Context) -> CaseResult {
    let (locks, store) = (cx.locks().await?, cx.open().await?);
    let guard = locks.lock("job").acquire().await?;
    let validity = guard.validity();
    guard.release().await?;
    ensure!(!validity.is_valid(), "a released guard is still believed in");
    cx.expect_free(&store, &name("job")).await
}

async fn of_a_broken_guard_says_that_it_was_lost(cx: Context) -> CaseResult {
    let (locks, store) = (cx.locks().await?, cx.open().await?);
    let guard = locks.lock("job").acquire().await?;
    let seen = store.inspect(&name("job"), Space::Locks).await?.pop().ok_or("a held lock is shown as free")?;
    let broken = store.break_lock(&name("job"), &seen, lock_core::BreakMode::Now).await?;
    ensure!(broken.is_some(), "the holder that was seen was not evicted");
    match guard.release().await {
        Err(error) => ensure!(error.kind() == ErrorKind::Lost, "it failed otherwise: {error:?}"),
        Ok(()) => return Err("the release of a broken lock says that it was held until now".into()),
    }
    Ok(())
}

async fn of_a_dropped_guard_happens_in_the_background(cx: Context) -> CaseResult {
    let (locks, store) = (cx.locks().await?, cx.open().await?);
    for _ in 0..3 {
        let guard = locks.lock("job").acquire().await?;
        drop(guard);
        cx.expect_free_soon(&store, &name("job")).await?;
    }
    let guard = locks.lock("job").acquire().await?;
    drop(guard);
    locks.close().await;
    cx.expect_free(&store, &name("job")).await
}

async fn that_fails_goes_on_in_the_background(cx: Context) -> CaseResult {
    let store = cx.open().await?;
    for step in [Disturbance::Fail, Disturbance::FailApplied] {
        let faulty = Faulty::new(cx.open().await?);
        let guard = cx.locks_on(faulty.clone()).lock("job").acquire().await?;
        faulty.script(Call::Release, [step, step]);
        ensure!(guard.release().await.is_err(), "a release that failed says that it succeeded");
        cx.expect_free_soon(&store, &name("job")).await?;
    }
    Ok(())
}

async fn by_a_waiter_gives_up_its_place(cx: Context) -> CaseResult {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let (holder, waiter) = (cx.claim(&job), cx.queueing_claim(&job));
    cx.expect_granted(&a, &holder).await?;
    cx.expect_held(&b, &waiter).await?;
    let found = b.release(&waiter, Duration::ZERO).await?;
    ensure!(found == ReleaseOutcome::NotHeld, "a waiter gave up its place, and the store says {found:?}");
    cx.release_held(&a, &holder).await?;
    cx.expect_free(&a, &job).await
}

async fn by_a_stranger_takes_no_place_from_a_waiter(cx: Context) -> CaseResult {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let (holder, waiter) = (cx.claim(&job), cx.queueing_claim(&job));
    cx.expect_granted(&a, &holder).await?;
    cx.expect_held(&b, &waiter).await?;
    b.release(&cx.claim(&job), Duration::ZERO).await?;
    cx.release_held(&a, &holder).await?;
    cx.expect_held(&a, &cx.claim(&job)).await?;
    cx.acquire_within(&b, &waiter, cx.prompt_timeout()).await?;
    cx.release_held(&b, &waiter).await
}

async fn after_the_end_of_the_lease_finds_nothing(cx: Context) -> CaseResult {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let earlier = cx.short_claim(&job);
    cx.expect_granted(&a, &earlier).await?;
    let now = cx.claim(&job);
    cx.acquire_within(&b, &now, cx.expiry_timeout()).await?;
    let found = a.release(&earlier, Duration::ZERO).await?;
    ensure!(found == ReleaseOutcome::NotHeld, "a release after the end of the lease found {found:?}");
    cx.expect_holder(&a, &now).await?;
    cx.release_held(&b, &now).await
}
