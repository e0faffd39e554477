//! P3 and P7: inspection and breaking of locks by operators.

use std::time::Duration;

use lock_core::{BreakMode, Locks, Space};

use crate::case::cases;
use crate::context::{Context, name};
use crate::ensure::{CaseResult, ensure};
use crate::requirement::Requirement;

cases! { "inspection";
    [] {
        of_a_free_lock_shows_nobody,
        shows_the_holder_on_every_handle,
        shows_what_the_holder_said_of_itself,
        shows_how_long_the_lease_lasts_and_has_lasted,
        breaking_evicts_the_holder_that_was_seen,
        breaking_with_a_stale_view_changes_nothing,
        breaking_a_free_lock_changes_nothing,
        breaking_now_frees_the_lock_at_once,
        breaking_now_excludes_no_later_holder,
        a_revoked_lock_stays_blocked_and_belongs_to_nobody,
    }
    [Requirement::Tokens] { shows_the_token_of_the_lease, breaking_uses_up_a_token }
    [Requirement::TimedExpiry] {
        of_an_ended_lease_shows_nobody,
        a_revoked_lock_is_free_when_the_old_lease_would_have_ended,
    }
}

async fn of_a_free_lock_shows_nobody(cx: Context) -> CaseResult {
    let (store, job) = (cx.open().await?, name("job"));
    let by = store.inspect(&job, Space::Locks).await?;
    ensure!(by.is_empty(), "a lock that was never held is shown as {by:?}");
    let claim = cx.claim(&job);
    cx.expect_granted(&store, &claim).await?;
    cx.release_held(&store, &claim).await?;
    let by = store.inspect(&job, Space::Locks).await?;
    ensure!(by.is_empty(), "a released lock is shown as {by:?}");
    Ok(())
}

async fn shows_the_holder_on_every_handle(cx: Context) -> CaseResult {
    let (a, b) = (cx.open().await?, cx.open().await?);
    let claim = cx.claim(&name("job"));
    cx.expect_granted(&a, &claim).await?;
    for handle in [&a, &b, &cx.open().await?] {
        let by = cx.expect_holder(handle, &claim).await?;
        ensure!(!by.revoked, "a held lock is shown as revoked");
    }
    let waiting = cx.expect_held(&b, &cx.claim(&name("job"))).await?;
    ensure!(waiting.by.holder == Some(claim.holder()), "a refusal names another holder: {:?}", waiting.by);
    Ok(())
}

async fn shows_what_the_holder_said_of_itself(cx: Context) -> CaseResult {
    let text = "backup of \"ledger\" % é {0}";
    let locks = Locks::builder_of(cx.open().await?).ttl(cx.long_ttl()).holder_info(text).build();
    let guard = locks.lock("job").acquire().await?;
    let by = cx.open().await?.inspect(guard.name(), Space::Locks).await?.pop().ok_or("a held lock is shown as free")?;
    let info = by.info.ok_or("what the holder said of itself is not shown")?;
    ensure!(info.text == text, "the holder said {text:?}, and the store shows {:?}", info.text);
    ensure!(info.pid == std::process::id() && !info.host.is_empty(), "host or process are shown as {info:?}");
    guard.release().await?;
    Ok(())
}

async fn shows_how_long_the_lease_lasts_and_has_lasted(cx: Context) -> CaseResult {
    let store = cx.open().await?;
    let claim = cx.claim(&name("job"));
    let granted = cx.expect_granted(&store, &claim).await?;
    tokio::time::sleep(cx.ttl / 4).await;
    let by = cx.expect_holder(&store, &claim).await?;
    let age = cx.clock.now().since(granted.sent);
    if let Some(remaining) = by.remaining {
        let ttl = granted.lease.ttl;
        ensure!(!remaining.is_zero() && remaining <= ttl, "{remaining:?} of {ttl:?} are said to remain");
        ensure!(remaining + age * 2 + cx.ttl * 4 >= ttl, "{remaining:?} of {ttl:?} are said to remain after {age:?}");
    }
    if let Some(held_for) = by.held_for {
        ensure!(held_for <= age * 2 + cx.ttl * 4, "it is said to be held for {held_for:?} after {age:?}");
    }
    Ok(())
}

async fn shows_the_token_of_the_lease(cx: Context) -> CaseResult {
    let store = cx.open().await?;
    let claim = cx.claim(&name("job"));
    let token = cx.expect_granted(&store, &claim).await?.token()?;
    let by = cx.expect_holder(&store, &claim).await?;
    ensure!(by.token.as_ref() == Some(&token), "the lease has token {token}, and the store shows {:?}", by.token);
    Ok(())
}

async fn of_an_ended_lease_shows_nobody(cx: Context) -> CaseResult {
    let (store, job) = (cx.open().await?, name("job"));
    let claim = cx.short_claim(&job);
    let granted = cx.expect_granted(&store, &claim).await?;
    cx.expect_holder(&store, &claim).await?;
    let until = granted.sent.after(granted.lease.ttl).after(cx.expiry_timeout());
    while !store.inspect(&job, Space::Locks).await?.is_empty() {
        ensure!(cx.clock.now() < until, "a lease that ended is still shown");
        tokio::time::sleep(cx.ttl / 20).await;
    }
    ensure!(cx.clock.now() >= granted.valid_until, "a lease that is still believed in is no longer shown");
    Ok(())
}

async fn breaking_evicts_the_holder_that_was_seen(cx: Context) -> CaseResult {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    for how in [BreakMode::Now, BreakMode::Revoke] {
        let claim = cx.claim(&job);
        cx.acquire_within(&a, &claim, cx.prompt_timeout()).await?;
        let seen = cx.expect_holder(&b, &claim).await?;
        let broken = b.break_lock(&job, &seen, how).await?.ok_or("the holder that was seen was not evicted")?;
        ensure!(broken.evicted.holder == Some(claim.holder()), "it is said that another was evicted: {broken:?}");
        let by = a.inspect(&job, Space::Locks).await?;
        let still = by.into_iter().next().is_some_and(|by| by.holder == Some(claim.holder()) && !by.revoked);
        ensure!(!still, "an evicted holder is still shown as the holder after {how:?}");
        let again = b.break_lock(&job, &seen, how).await?;
        ensure!(again.is_none(), "the same holder was evicted twice: {again:?}");
    }
    Ok(())
}

async fn breaking_with_a_stale_view_changes_nothing(cx: Context) -> CaseResult {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let earlier = cx.claim(&job);
    cx.expect_granted(&a, &earlier).await?;
    let seen = cx.expect_holder(&b, &earlier).await?;
    cx.release_held(&a, &earlier).await?;
    let now = cx.claim(&job);
    cx.expect_granted(&a, &now).await?;
    for how in [BreakMode::Now, BreakMode::Revoke] {
        let broken = b.break_lock(&job, &seen, how).await?;
        ensure!(broken.is_none(), "{how:?} with a stale view evicted {broken:?}");
        cx.expect_holder(&b, &now).await?;
        cx.expect_held(&b, &cx.claim(&job)).await?;
    }
    cx.release_held(&a, &now).await
}

async fn breaking_a_free_lock_changes_nothing(cx: Context) -> CaseResult {
    let (store, job) = (cx.open().await?, name("job"));
    let claim = cx.claim(&job);
    cx.expect_granted(&store, &claim).await?;
    let seen = cx.expect_holder(&store, &claim).await?;
    cx.release_held(&store, &claim).await?;
    for how in [BreakMode::Now, BreakMode::Revoke] {
        let broken = store.break_lock(&job, &seen, how).await?;
        ensure!(broken.is_none(), "{how:?} of a free lock evicted {broken:?}");
        cx.expect_free(&store, &job).await?;
    }
    Ok(())
}

async fn breaking_now_frees_the_lock_at_once(cx: Context) -> CaseResult {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let claim = cx.claim(&job);
    cx.expect_granted(&a, &claim).await?;
    let seen = cx.expect_holder(&b, &claim).await?;
    let broken = b.break_lock(&job, &seen, BreakMode::Now).await?.ok_or("the holder that was seen was not evicted")?;
    ensure!(broken.free_in.is_zero(), "it is said to be free in {:?} only", broken.free_in);
    cx.expect_free(&a, &job).await
}

async fn breaking_now_excludes_no_later_holder(cx: Context) -> CaseResult {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let evicted = cx.claim(&job);
    cx.expect_granted(&a, &evicted).await?;
    let seen = cx.expect_holder(&b, &evicted).await?;
    b.break_lock(&job, &seen, BreakMode::Now).await?.ok_or("the holder that was seen was not evicted")?;
    let now = cx.claim(&job);
    cx.expect_granted(&b, &now).await?;
    a.release(&evicted, Duration::ZERO).await?;
    cx.expect_holder(&b, &now).await?;
    cx.release_held(&b, &now).await
}

async fn a_revoked_lock_stays_blocked_and_belongs_to_nobody(cx: Context) -> CaseResult {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let evicted = cx.claim(&job);
    cx.expect_granted(&a, &evicted).await?;
    let seen = cx.expect_holder(&b, &evicted).await?;
    let broken =
        b.break_lock(&job, &seen, BreakMode::Revoke).await?.ok_or("the holder that was seen was not evicted")?;
    if broken.free_in.is_zero() {
        return Err("a revoked lock is said to be free at once".into());
    }
    let by = b.inspect(&job, Space::Locks).await?.pop().ok_or("a revoked lock is shown as free while it is blocked")?;
    ensure!(by.revoked, "a revoked lock is not shown as revoked: {by:?}");
    cx.expect_held(&b, &cx.claim(&job)).await?;
    a.release(&evicted, Duration::ZERO).await?;
    cx.expect_held(&b, &cx.claim(&job)).await?;
    Ok(())
}

async fn breaking_uses_up_a_token(cx: Context) -> CaseResult {
    let (store, job) = (cx.open().await?, name("job"));
    let claim = cx.short_claim(&job);
    let mut last = cx.expect_granted(&store, &claim).await?.token()?;
    let mut claim = claim;
    for how in [BreakMode::Now, BreakMode::Revoke] {
        let seen = cx.expect_holder(&store, &claim).await?;
        let broken = store.break_lock(&job, &seen, how).await?.ok_or("the holder that was seen was not evicted")?;
        let used = broken.token.ok_or("breaking used up no token")?;
        ensure!(used > last, "{how:?} used up {used}, after {last}");
        claim = cx.short_claim(&job);
        last = cx.acquire_within(&store, &claim, cx.expiry_timeout()).await?.token()?;
        ensure!(last > used, "the lease after {how:?} has {last}, and {used} was used up");
    }
    Ok(())
}

async fn a_revoked_lock_is_free_when_the_old_lease_would_have_ended(cx: Context) -> CaseResult {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let evicted = cx.short_claim(&job);
    let granted = cx.expect_granted(&a, &evicted).await?;
    let seen = cx.expect_holder(&b, &evicted).await?;
    b.break_lock(&job, &seen, BreakMode::Revoke).await?.ok_or("the holder that was seen was not evicted")?;
    let next = cx.claim(&job);
    cx.acquire_within(&b, &next, granted.lease.ttl + cx.expiry_timeout()).await?;
    ensure!(cx.clock.now() >= granted.valid_until, "granted to another while the evicted holder may still believe");
    Ok(())
}
