//! P8: waiters are served, in order, and do not rely on notifications.

use std::time::Duration;

use lock_core::{ErrorKind, HeldBy, LockGuard, Locks};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::case::cases;
use crate::context::{Context, name};
use crate::ensure::{CaseResult, ensure};
use crate::factory::Failure;
use crate::requirement::Requirement;

cases! { "waiting";
    [] {
        trying_writes_nothing_while_another_holds,
        trying_does_not_extend_the_lease_in_the_way,
        ends_soon_after_a_release,
        ends_soon_after_a_release_on_the_same_handle,
        ends_soon_after_a_drop,
        ends_soon_after_a_break,
        beyond_its_limit_says_who_holds,
        beyond_its_limit_leaves_no_place,
        of_sixteen_serves_all,
        of_one_handle_is_served_in_order,
        goes_on_when_the_one_ahead_gives_up,
        ends_when_its_locks_close_and_leaves_no_place,
    }
    [Requirement::Queue] {
        of_several_handles_is_served_in_order,
        asking_again_keeps_the_place,
        shows_how_many_are_ahead,
    }
    [Requirement::TimedExpiry] { passes_a_dead_holder_at_the_end_of_its_lease }
    [Requirement::Queue, Requirement::TimedExpiry] { passes_a_dead_waiter }
}

type Waiter = JoinHandle<lock_core::Result<LockGuard>>;

/// Starts a waiter, and returns when its `on_wait` was called.
async fn start_waiter(cx: &Context, locks: &Locks, limit: Option<Duration>) -> Result<Waiter, Failure> {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let on_wait = move |_: &HeldBy| {
        // Only the first is awaited.
        let _ = sender.send(());
    };
    let limit = limit.unwrap_or(cx.long_ttl() * 4);
    let waiter = tokio::spawn(locks.lock("job").wait(limit).on_wait(on_wait).acquire());
    receiver.recv().await.ok_or("the waiter ended before it waited")?;
    Ok(waiter)
}

async fn expect_served(cx: &Context, waiter: Waiter) -> Result<LockGuard, Failure> {
    let served = tokio::time::timeout(cx.prompt_timeout(), waiter).await;
    Ok(served.map_err(|_| format!("a waiter was not served within {:?}", cx.prompt_timeout()))???)
}

async fn trying_writes_nothing_while_another_holds(cx: Context) -> CaseResult {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let holder = cx.claim(&job);
    cx.expect_granted(&a, &holder).await?;
    let tries: Vec<_> = (0..4).map(|_| cx.claim(&job)).collect();
    for claim in &tries {
        cx.expect_held(&b, claim).await?;
    }
    ensure!(cx.locks().await?.lock("job").try_acquire().await?.is_none(), "a held lock was granted");
    cx.release_held(&a, &holder).await?;
    cx.expect_free(&a, &job).await
}

async fn trying_does_not_extend_the_lease_in_the_way(cx: Context) -> CaseResult {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let holder = cx.claim(&job);
    let granted = cx.expect_granted(&a, &holder).await?;
    tokio::time::sleep(cx.ttl).await;
    let before = cx.clock.now().since(granted.sent);
    cx.expect_held(&b, &cx.claim(&job)).await?;
    let by = cx.expect_holder(&b, &holder).await?;
    if let Some(remaining) = by.remaining {
        let most = granted.lease.ttl.saturating_sub(before / 2);
        ensure!(remaining <= most, "{remaining:?} of {:?} remain after {before:?} and a try", granted.lease.ttl);
    }
    cx.release_held(&a, &holder).await
}

async fn ends_soon_after_a_release(cx: Context) -> CaseResult {
    let (a, b) = (cx.locks().await?, cx.locks().await?);
    for _ in 0..3 {
        let holder = a.lock("job").acquire().await?;
        let waiter = start_waiter(&cx, &b, None).await?;
        holder.release().await?;
        expect_served(&cx, waiter).await?.release().await?;
    }
    Ok(())
}

async fn ends_soon_after_a_release_on_the_same_handle(cx: Context) -> CaseResult {
    let locks = cx.locks().await?;
    for _ in 0..3 {
        let holder = locks.lock("job").acquire().await?;
        let waiter = start_waiter(&cx, &locks, None).await?;
        holder.release().await?;
        expect_served(&cx, waiter).await?.release().await?;
    }
    Ok(())
}

async fn ends_soon_after_a_drop(cx: Context) -> CaseResult {
    let (a, b) = (cx.locks().await?, cx.locks().await?);
    let holder = a.lock("job").acquire().await?;
    let waiter = start_waiter(&cx, &b, None).await?;
    drop(holder);
    expect_served(&cx, waiter).await?.release().await?;
    Ok(())
}

async fn ends_soon_after_a_break(cx: Context) -> CaseResult {
    let (a, b) = (cx.open().await?, cx.locks().await?);
    let holder = cx.claim(&name("job"));
    cx.expect_granted(&a, &holder).await?;
    let waiter = start_waiter(&cx, &b, None).await?;
    let seen = cx.expect_holder(&a, &holder).await?;
    a.break_lock(holder.name(), &seen, lock_core::BreakMode::Now).await?.ok_or("the holder was not evicted")?;
    expect_served(&cx, waiter).await?.release().await?;
    Ok(())
}

async fn beyond_its_limit_says_who_holds(cx: Context) -> CaseResult {
    let (a, b) = (cx.locks().await?, cx.locks().await?);
    let holder = a.lock("job").acquire().await?;
    for limit in [Duration::ZERO, cx.ttl / 2] {
        let ended = b.lock("job").wait(limit).acquire().await;
        let error = ended.err().ok_or("a held lock was granted to a waiter")?;
        ensure!(error.kind() == ErrorKind::Contended, "it failed otherwise: {error:?}");
        let by = error.held_by().and_then(|by| by.holder);
        ensure!(by == Some(holder.holder()), "{} holds it, and the error says {by:?}", holder.holder());
    }
    holder.release().await?;
    Ok(())
}

async fn beyond_its_limit_leaves_no_place(cx: Context) -> CaseResult {
    let (a, b, store) = (cx.locks().await?, cx.locks().await?, cx.open().await?);
    let holder = a.lock("job").acquire().await?;
    for _ in 0..3 {
        let ended = b.lock("job").wait(cx.ttl / 4).acquire().await;
        ensure!(ended.is_err(), "a held lock was granted to a waiter");
    }
    b.close().await;
    holder.release().await?;
    cx.expect_free(&store, &name("job")).await
}

async fn of_sixteen_serves_all(cx: Context) -> CaseResult {
    let (a, b) = (cx.locks().await?, cx.locks().await?);
    let holder = a.lock("job").acquire().await?;
    let mut waiters = tokio::task::JoinSet::new();
    for i in 0..16 {
        let lock = if i % 2 == 0 { &a } else { &b }.lock("job").wait(cx.long_ttl() * 4);
        waiters.spawn(async move { lock.acquire().await?.release().await });
    }
    tokio::time::sleep(cx.ttl / 4).await;
    holder.release().await?;
    while let Some(served) = waiters.join_next().await {
        served??;
    }
    Ok(())
}

async fn of_one_handle_is_served_in_order(cx: Context) -> CaseResult {
    let locks = cx.locks().await?;
    expect_served_in_order(&cx, &locks, &[&locks, &locks, &locks, &locks, &locks]).await
}

async fn of_several_handles_is_served_in_order(cx: Context) -> CaseResult {
    let handles = [cx.locks().await?, cx.locks().await?, cx.locks().await?];
    let [a, b, c] = &handles;
    expect_served_in_order(&cx, a, &[b, c, a, c, b, a]).await
}

async fn expect_served_in_order(cx: &Context, holder: &Locks, handles: &[&Locks]) -> CaseResult {
    let first = holder.lock("job").acquire().await?;
    let (done, mut order) = mpsc::unbounded_channel();
    let mut waiters = Vec::new();
    for (i, locks) in handles.iter().enumerate() {
        let waiter = start_waiter(cx, locks, None).await?;
        let done = done.clone();
        waiters.push(tokio::spawn(async move {
            let guard = waiter.await??;
            // The receiver is gone if the case has failed.
            let _ = done.send(i);
            guard.release().await?;
            CaseResult::Ok(())
        }));
    }
    first.release().await?;
    for waiter in waiters {
        waiter.await??;
    }
    drop(done);
    let mut served = Vec::new();
    while let Some(i) = order.recv().await {
        served.push(i);
    }
    ensure!(served.is_sorted(), "waiters that came one after the other were served in the order {served:?}");
    Ok(())
}

async fn goes_on_when_the_one_ahead_gives_up(cx: Context) -> CaseResult {
    let (a, b, c) = (cx.locks().await?, cx.locks().await?, cx.locks().await?);
    let holder = a.lock("job").acquire().await?;
    let ahead = start_waiter(&cx, &b, None).await?;
    let behind = start_waiter(&cx, &c, None).await?;
    let same = start_waiter(&cx, &b, None).await?;
    ahead.abort();
    holder.release().await?;
    let second = expect_served(&cx, behind);
    let third = expect_served(&cx, same);
    let release = |guard: LockGuard| async { CaseResult::Ok(guard.release().await?) };
    let (second, third) = tokio::join!(async { release(second.await?).await }, async { release(third.await?).await });
    second.and(third)
}

async fn ends_when_its_locks_close_and_leaves_no_place(cx: Context) -> CaseResult {
    let (a, closes, behind) = (cx.locks().await?, cx.locks().await?, cx.locks().await?);
    let holder = a.lock("job").acquire().await?;
    let ahead = [start_waiter(&cx, &closes, None).await?, start_waiter(&cx, &closes, None).await?];
    let waiter = start_waiter(&cx, &behind, None).await?;
    closes.close().await;
    for ended in ahead {
        let ended = expect_served(&cx, ended).await;
        let error = ended.err().ok_or("it was served after its locks were closed")?;
        ensure!(error.to_string().contains("closed"), "it ended otherwise: {error}");
    }
    holder.release().await?;
    // The entries of closed locks are not in the way, even while their process lives on.
    expect_served(&cx, waiter).await?.release().await?;
    Ok(())
}

async fn shows_how_many_are_ahead(cx: Context) -> CaseResult {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let (holder, second, third) = (cx.claim(&job), cx.queueing_claim(&job), cx.queueing_claim(&job));
    cx.expect_granted(&a, &holder).await?;
    let waiting = cx.expect_held(&a, &second).await?;
    ensure!(waiting.by.ahead.is_none_or(|ahead| ahead == 1), "first in the queue, and {:?} ahead", waiting.by.ahead);
    let waiting = cx.expect_held(&b, &third).await?;
    ensure!(waiting.by.ahead.is_none_or(|ahead| ahead == 2), "second in the queue, and {:?} ahead", waiting.by.ahead);
    let again = cx.expect_held(&b, &third).await?;
    ensure!(again.by.ahead == waiting.by.ahead, "asking again moved it to {:?}", again.by.ahead);
    b.release(&third, Duration::ZERO).await?;
    a.release(&second, Duration::ZERO).await?;
    cx.release_held(&a, &holder).await?;
    cx.expect_free(&a, &job).await
}

async fn asking_again_keeps_the_place(cx: Context) -> CaseResult {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let (holder, second, third) = (cx.claim(&job), cx.queueing_claim(&job), cx.queueing_claim(&job));
    cx.expect_granted(&a, &holder).await?;
    cx.expect_held(&a, &second).await?;
    cx.expect_held(&b, &third).await?;
    cx.expect_held(&a, &second).await?;
    cx.release_held(&a, &holder).await?;
    cx.expect_held(&b, &third).await?;
    cx.acquire_within(&a, &second, cx.prompt_timeout()).await?;
    cx.release_held(&a, &second).await?;
    cx.acquire_within(&b, &third, cx.prompt_timeout()).await?;
    cx.release_held(&b, &third).await
}

async fn passes_a_dead_holder_at_the_end_of_its_lease(cx: Context) -> CaseResult {
    let (store, locks) = (cx.open().await?, cx.locks().await?);
    let dead = cx.short_claim(&name("job"));
    let granted = cx.expect_granted(&store, &dead).await?;
    let limit = granted.lease.ttl + cx.expiry_timeout();
    let guard = locks.lock("job").wait(limit).acquire().await?;
    let early = granted.valid_until.since(cx.clock.now());
    ensure!(early.is_zero(), "granted to the waiter {early:?} before the belief of the holder ended");
    guard.release().await?;
    Ok(())
}

async fn passes_a_dead_waiter(cx: Context) -> CaseResult {
    let (store, locks, job) = (cx.open().await?, cx.locks().await?, name("job"));
    let (holder, dead) = (cx.claim(&job), lock_core::Claim::queueing(job.clone(), cx.ttl));
    cx.expect_granted(&store, &holder).await?;
    cx.expect_held(&store, &dead).await?;
    // A waiter polls within its own TTL. It has another TTL, so that no session of this process
    // keeps the dead waiter.
    let lock = locks.lock("job").ttl(cx.ttl * 2).wait(cx.prompt_timeout());
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let on_wait = move |_: &HeldBy| {
        // Only the first is awaited.
        let _ = sender.send(());
    };
    let waiter = tokio::spawn(lock.on_wait(on_wait).acquire());
    receiver.recv().await.ok_or("the waiter ended before it waited")?;
    cx.release_held(&store, &holder).await?;
    expect_served(&cx, waiter).await?.release().await?;
    Ok(())
}
