//! P3 and P6: a release gives back what its own holder has, and all of it.

use lock_core::{Claim, ErrorKind, ReleaseOutcome};

use crate::case::{Need, Proof, cases, ensure};
use crate::context::{Context, name};
use crate::faults::{Call, Disturbance, Faulty};

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
    [Need::Queue] { by_a_waiter_gives_up_its_place, by_a_stranger_takes_no_place_from_a_waiter }
    [Need::Time] { after_the_end_of_the_lease_finds_nothing }
}

async fn frees_the_lock_at_once(cx: Context) -> Proof {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    for _ in 0..5 {
        let claim = cx.claim(&job);
        cx.grant(&a, &claim).await?;
        cx.give_back(&a, &claim).await?;
        cx.is_free(&b, &job).await?;
    }
    Ok(())
}

async fn of_a_lock_that_is_not_held_succeeds(cx: Context) -> Proof {
    let (store, job) = (cx.open().await?, name("never held"));
    for claim in [cx.claim(&job), cx.queueing(&job)] {
        let found = store.release(&claim).await?;
        ensure!(found == ReleaseOutcome::NotHeld, "the release of a lock that nobody held found {found:?}");
    }
    cx.is_free(&store, &job).await
}

async fn twice_finds_nothing_the_second_time(cx: Context) -> Proof {
    let (store, job) = (cx.open().await?, name("job"));
    let claim = cx.claim(&job);
    cx.grant(&store, &claim).await?;
    cx.give_back(&store, &claim).await?;
    let found = store.release(&claim).await?;
    ensure!(found == ReleaseOutcome::NotHeld, "the second release found {found:?}");
    cx.is_free(&store, &job).await
}

async fn by_a_stranger_changes_nothing(cx: Context) -> Proof {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let holder = cx.claim(&job);
    cx.grant(&a, &holder).await?;
    for (handle, stranger) in [(&a, cx.claim(&job)), (&b, cx.claim(&job)), (&b, cx.queueing(&job))] {
        let found = handle.release(&stranger).await?;
        ensure!(found == ReleaseOutcome::NotHeld, "a stranger's release found {found:?}");
        cx.shows_holder(&b, &holder).await?;
        cx.refused(&b, &cx.claim(&job)).await?;
    }
    cx.give_back(&a, &holder).await
}

async fn by_an_earlier_holder_of_the_same_handle_does_not_free_a_newer_lock(cx: Context) -> Proof {
    stale_release(cx, true).await
}

async fn by_an_earlier_holder_of_another_handle_does_not_free_a_newer_lock(cx: Context) -> Proof {
    stale_release(cx, false).await
}

async fn stale_release(cx: Context, same: bool) -> Proof {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let earlier = cx.claim(&job);
    cx.grant(&a, &earlier).await?;
    cx.give_back(&a, &earlier).await?;
    let now = cx.claim(&job);
    let holder = if same { &a } else { &b };
    cx.grant(holder, &now).await?;
    let found = a.release(&earlier).await?;
    ensure!(found == ReleaseOutcome::NotHeld, "a stale release found {found:?}");
    // A store that repeats releases by itself would do it within this time.
    tokio::time::sleep(cx.ttl / 2).await;
    cx.shows_holder(&b, &now).await?;
    cx.refused(&b, &cx.claim(&job)).await?;
    cx.give_back(holder, &now).await
}

async fn of_one_name_leaves_the_others(cx: Context) -> Proof {
    let store = cx.open().await?;
    let names = ["a", "a/b", "b"].map(name);
    let claims: Vec<Claim> = names.iter().map(|name| cx.claim(name)).collect();
    for claim in &claims {
        cx.grant(&store, claim).await?;
    }
    cx.give_back(&store, &claims[0]).await?;
    for claim in &claims[1..] {
        cx.shows_holder(&store, claim).await?;
        cx.give_back(&store, claim).await?;
    }
    Ok(())
}

async fn of_a_guard_says_that_it_was_held(cx: Context) -> Proof {
    let (locks, store) = (cx.locks().await?, cx.open().await?);
    let guard = locks.lock("job").acquire().await?;
    let validity = guard.validity();
    guard.release().await?;
    ensure!(!validity.is_valid(), "a released guard is still believed in");
    cx.is_free(&store, &name("job")).await
}

async fn of_a_broken_guard_says_that_it_was_lost(cx: Context) -> Proof {
    let (locks, store) = (cx.locks().await?, cx.open().await?);
    let guard = locks.lock("job").acquire().await?;
    let seen = store.inspect(&name("job")).await?.ok_or("a held lock is shown as free")?;
    let broken = store.break_lock(&name("job"), &seen, lock_core::BreakMode::Now).await?;
    ensure!(broken.is_some(), "the holder that was seen was not evicted");
    match guard.release().await {
        Err(error) => ensure!(error.kind() == ErrorKind::Lost, "it failed otherwise: {error:?}"),
        Ok(()) => return Err("the release of a broken lock says that it was held until now".into()),
    }
    Ok(())
}

async fn of_a_dropped_guard_happens_in_the_background(cx: Context) -> Proof {
    let (locks, store) = (cx.locks().await?, cx.open().await?);
    for _ in 0..3 {
        let guard = locks.lock("job").acquire().await?;
        drop(guard);
        cx.becomes_free(&store, &name("job")).await?;
    }
    let guard = locks.lock("job").acquire().await?;
    drop(guard);
    locks.close().await;
    cx.is_free(&store, &name("job")).await
}

async fn that_fails_goes_on_in_the_background(cx: Context) -> Proof {
    let store = cx.open().await?;
    for step in [Disturbance::Fail, Disturbance::FailApplied] {
        let faulty = Faulty::new(cx.open().await?);
        let guard = cx.locks_on(faulty.clone()).lock("job").acquire().await?;
        faulty.script(Call::Release, [step, step]);
        ensure!(guard.release().await.is_err(), "a release that failed says that it succeeded");
        cx.becomes_free(&store, &name("job")).await?;
    }
    Ok(())
}

async fn by_a_waiter_gives_up_its_place(cx: Context) -> Proof {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let (holder, waiter) = (cx.claim(&job), cx.queueing(&job));
    cx.grant(&a, &holder).await?;
    cx.refused(&b, &waiter).await?;
    let found = b.release(&waiter).await?;
    ensure!(found == ReleaseOutcome::NotHeld, "a waiter gave up its place, and the store says {found:?}");
    cx.give_back(&a, &holder).await?;
    cx.is_free(&a, &job).await
}

async fn by_a_stranger_takes_no_place_from_a_waiter(cx: Context) -> Proof {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let (holder, waiter) = (cx.claim(&job), cx.queueing(&job));
    cx.grant(&a, &holder).await?;
    cx.refused(&b, &waiter).await?;
    b.release(&cx.claim(&job)).await?;
    cx.give_back(&a, &holder).await?;
    cx.refused(&a, &cx.claim(&job)).await?;
    cx.grant_within(&b, &waiter, cx.soon()).await?;
    cx.give_back(&b, &waiter).await
}

async fn after_the_end_of_the_lease_finds_nothing(cx: Context) -> Proof {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let earlier = cx.brief(&job);
    cx.grant(&a, &earlier).await?;
    let now = cx.claim(&job);
    cx.grant_within(&b, &now, cx.patience()).await?;
    let found = a.release(&earlier).await?;
    ensure!(found == ReleaseOutcome::NotHeld, "a release after the end of the lease found {found:?}");
    cx.shows_holder(&a, &now).await?;
    cx.give_back(&b, &now).await
}
