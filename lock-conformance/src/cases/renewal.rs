//! P2 and P3: a renewal extends a held lease and never acquires.

use std::sync::Arc;

use lock_core::{BreakMode, Claim, ErrorKind, LockStore, RenewalBatch, RenewalOutcome, Space};

use crate::case::cases;
use crate::context::{Context, name};
use crate::ensure::{CaseResult, ensure};
use crate::requirement::Requirement;

cases! { "renewal";
    [] {
        by_hand_keeps_the_lock,
        of_a_broken_guard_says_that_it_is_lost_and_does_not_take_it_back,
        of_a_released_guard_does_not_take_it_back,
    }
    [Requirement::TimedExpiry] {
        keeps_a_guard_beyond_its_ttl,
        keeps_many_guards_beyond_their_ttl,
        keeps_the_guards_of_two_users_of_one_handle,
    }
    [Requirement::TtlPerLease] {
        of_a_lock_that_was_never_held_is_refused,
        of_a_released_lease_is_refused,
        of_a_broken_lease_is_refused,
        by_a_stranger_is_refused,
        of_a_lease_that_another_has_now_is_refused,
        of_a_revoked_lease_is_refused,
        answers_each_entry_of_a_batch_by_itself,
        of_a_thousand_entries_answers_all,
        of_an_empty_batch_does_nothing,
    }
    [Requirement::Sessions] { of_a_session_keeps_what_is_granted_meanwhile, of_a_session_keeps_what_other_sessions_have }
    [Requirement::TtlPerLease, Requirement::TimedExpiry] {
        extends_the_lease_for_as_long_as_it_says,
        of_an_ended_lease_is_refused,
    }
}

/// Checks that the renewal of this claim is answered with "not held".
async fn expect_refused(cx: &Context, store: &Arc<dyn LockStore>, claim: &Claim) -> CaseResult {
    let (_, answer) = cx.renew(store, claim).await?;
    ensure!(answer == RenewalOutcome::NotHeld, "the renewal of a lease that is not held was answered with {answer:?}");
    Ok(())
}

async fn extends_the_lease_for_as_long_as_it_says(cx: Context) -> CaseResult {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let claim = cx.short_claim(&job);
    let mut valid_until = cx.expect_granted(&a, &claim).await?.valid_until;
    for _ in 0..3 {
        tokio::time::sleep(cx.ttl / 2).await;
        valid_until = match cx.renew(&a, &claim).await? {
            (sent, RenewalOutcome::HeldFor(ttl)) => cx.clock.valid_until(sent, ttl),
            (sent, RenewalOutcome::HeldSince(earlier, ttl)) => cx.clock.valid_until(earlier.min(sent), ttl),
            (_, RenewalOutcome::NotHeld) => {
                return Err("the renewal of a held lease was answered with \"not held\"".into());
            }
        };
    }
    ensure!(cx.clock.until(valid_until) > cx.ttl / 4, "a renewed lease lasts {:?}", cx.clock.until(valid_until));
    let next = cx.claim(&job);
    cx.acquire_within(&b, &next, cx.clock.until(valid_until) + cx.expiry_timeout()).await?;
    let early = valid_until.since(cx.clock.now());
    ensure!(early.is_zero(), "granted to another {early:?} before the belief of its holder ended");
    Ok(())
}

async fn of_an_ended_lease_is_refused(cx: Context) -> CaseResult {
    let (a, job) = (cx.open().await?, name("job"));
    let claim = cx.short_claim(&job);
    cx.expect_granted(&a, &claim).await?;
    let until = cx.clock.now().after(cx.expiry_timeout());
    while !a.inspect(&job, Space::Locks).await?.is_empty() {
        ensure!(cx.clock.now() < until, "the lease does not end");
        tokio::time::sleep(cx.ttl / 20).await;
    }
    expect_refused(&cx, &a, &claim).await?;
    cx.expect_free(&a, &job).await
}

async fn of_a_lock_that_was_never_held_is_refused(cx: Context) -> CaseResult {
    let (store, job) = (cx.open().await?, name("job"));
    for claim in [cx.claim(&job), cx.queueing_claim(&job)] {
        expect_refused(&cx, &store, &claim).await?;
        cx.expect_free(&store, &job).await?;
    }
    Ok(())
}

async fn of_a_released_lease_is_refused(cx: Context) -> CaseResult {
    let (store, job) = (cx.open().await?, name("job"));
    let claim = cx.claim(&job);
    cx.expect_granted(&store, &claim).await?;
    cx.release_held(&store, &claim).await?;
    expect_refused(&cx, &store, &claim).await?;
    cx.expect_free(&store, &job).await
}

async fn of_a_broken_lease_is_refused(cx: Context) -> CaseResult {
    let (store, job) = (cx.open().await?, name("job"));
    let claim = cx.claim(&job);
    cx.expect_granted(&store, &claim).await?;
    let seen = cx.expect_holder(&store, &claim).await?;
    store.break_lock(&job, &seen, BreakMode::Now).await?.ok_or("the holder that was seen was not evicted")?;
    expect_refused(&cx, &store, &claim).await?;
    cx.expect_free(&store, &job).await
}

async fn of_a_revoked_lease_is_refused(cx: Context) -> CaseResult {
    let (store, job) = (cx.open().await?, name("job"));
    let claim = cx.claim(&job);
    cx.expect_granted(&store, &claim).await?;
    let seen = cx.expect_holder(&store, &claim).await?;
    store.break_lock(&job, &seen, BreakMode::Revoke).await?.ok_or("the holder that was seen was not evicted")?;
    expect_refused(&cx, &store, &claim).await?;
    cx.expect_held(&store, &claim).await?;
    Ok(())
}

async fn by_a_stranger_is_refused(cx: Context) -> CaseResult {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let holder = cx.claim(&job);
    cx.expect_granted(&a, &holder).await?;
    for handle in [&a, &b] {
        expect_refused(&cx, handle, &cx.claim(&job)).await?;
    }
    let (_, answer) = cx.renew(&a, &holder).await?;
    ensure!(answer != RenewalOutcome::NotHeld, "after a stranger's renewal the holder's was refused");
    cx.expect_holder(&b, &holder).await?;
    cx.release_held(&a, &holder).await
}

async fn of_a_lease_that_another_has_now_is_refused(cx: Context) -> CaseResult {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let earlier = cx.claim(&job);
    cx.expect_granted(&a, &earlier).await?;
    cx.release_held(&a, &earlier).await?;
    let now = cx.short_claim(&job);
    let granted = cx.expect_granted(&b, &now).await?;
    expect_refused(&cx, &a, &earlier).await?;
    cx.expect_holder(&b, &now).await?;
    // It does not extend the lease of the other holder either: that ends by its own TTL.
    let until = granted.sent.after(granted.lease.ttl).after(cx.expiry_timeout());
    while !b.inspect(&job, Space::Locks).await?.is_empty() {
        expect_refused(&cx, &a, &earlier).await?;
        ensure!(cx.clock.now() < until, "a stranger's renewals kept the lease");
        tokio::time::sleep(cx.ttl / 10).await;
    }
    Ok(())
}

async fn answers_each_entry_of_a_batch_by_itself(cx: Context) -> CaseResult {
    let store = cx.open().await?;
    let (one, two, stranger) = (cx.claim(&name("one")), cx.claim(&name("two")), cx.claim(&name("one")));
    let (unknown, released) = (cx.claim(&name("unknown")), cx.claim(&name("released")));
    for claim in [&one, &two, &released] {
        cx.expect_granted(&store, claim).await?;
    }
    cx.release_held(&store, &released).await?;
    let entries = [(&unknown, false), (&one, true), (&stranger, false), (&released, false), (&two, true)];
    let batch = RenewalBatch::new(&cx.clock, entries.map(|(claim, _)| claim.clone()));
    store.renew(&batch).await?;
    for (entry, (claim, held)) in batch.iter().zip(entries) {
        let answer = entry.outcome().ok_or_else(|| format!("{} was not answered", claim.name()))?;
        ensure!((answer != RenewalOutcome::NotHeld) == held, "\"{}\", held: {held}: {answer:?}", claim.name());
    }
    for claim in [&one, &two] {
        cx.expect_holder(&store, claim).await?;
    }
    cx.expect_free(&store, unknown.name()).await?;
    cx.expect_free(&store, released.name()).await
}

async fn of_a_thousand_entries_answers_all(cx: Context) -> CaseResult {
    let store = cx.open().await?;
    let claims: Vec<Claim> = (0..1000).map(|i| cx.claim(&name(&format!("job/{i}")))).collect();
    // Every fifth is held; the others are unknown to the store.
    for claim in claims.iter().step_by(5) {
        cx.expect_granted(&store, claim).await?;
    }
    let batch = RenewalBatch::new(&cx.clock, claims.iter().cloned());
    let renewed = store.renew(&batch).await;
    for (i, entry) in batch.iter().enumerate() {
        let answer = entry.outcome().ok_or_else(|| format!("entry {i} was not answered: {renewed:?}"))?;
        ensure!((answer != RenewalOutcome::NotHeld) == (i % 5 == 0), "entry {i} was answered with {answer:?}");
    }
    Ok(())
}

async fn of_an_empty_batch_does_nothing(cx: Context) -> CaseResult {
    let store = cx.open().await?;
    let batch = RenewalBatch::new(&cx.clock, []);
    store.renew(&batch).await?;
    cx.expect_free(&store, &name("job")).await
}

async fn by_hand_keeps_the_lock(cx: Context) -> CaseResult {
    let (locks, store) = (cx.locks().await?, cx.open().await?);
    let guard = locks.lock("job").acquire().await?;
    for _ in 0..3 {
        guard.renew().await?;
        cx.expect_held(&store, &cx.claim(&name("job"))).await?;
    }
    guard.release().await?;
    cx.expect_free(&store, &name("job")).await
}

async fn of_a_broken_guard_says_that_it_is_lost_and_does_not_take_it_back(cx: Context) -> CaseResult {
    let (locks, store, job) = (cx.locks().await?, cx.open().await?, name("job"));
    let guard = locks.lock("job").acquire().await?;
    let seen = store.inspect(&job, Space::Locks).await?.pop().ok_or("a held lock is shown as free")?;
    store.break_lock(&job, &seen, BreakMode::Now).await?.ok_or("the holder that was seen was not evicted")?;
    let error = guard.renew().await.err().ok_or("the renewal of a broken lock says that it is held")?;
    ensure!(error.kind() == ErrorKind::Lost, "it failed otherwise: {error:?}");
    cx.expect_free(&store, &job).await
}

async fn of_a_released_guard_does_not_take_it_back(cx: Context) -> CaseResult {
    let (locks, store, job) = (cx.locks().await?, cx.open().await?, name("job"));
    // A second lock of the same process keeps a shared session renewed.
    let other = locks.lock("other").acquire().await?;
    let guard = locks.lock("job").acquire().await?;
    guard.release().await?;
    for _ in 0..3 {
        other.renew().await?;
        cx.expect_free(&store, &job).await?;
    }
    other.release().await?;
    Ok(())
}

async fn keeps_a_guard_beyond_its_ttl(cx: Context) -> CaseResult {
    expect_all_kept(cx, 1).await
}

async fn keeps_many_guards_beyond_their_ttl(cx: Context) -> CaseResult {
    expect_all_kept(cx, 40).await
}

async fn expect_all_kept(cx: Context, count: usize) -> CaseResult {
    let (locks, store) = (cx.locks().await?, cx.open().await?);
    let mut guards = Vec::new();
    for i in 0..count {
        guards.push(locks.lock(format!("job/{i}")).ttl(cx.ttl).acquire().await?);
    }
    let ttl = guards.iter().map(|guard| guard.ttl()).max().unwrap_or_default();
    let until = cx.clock.now().after(ttl * 5 / 2);
    while cx.clock.now() < until {
        tokio::time::sleep(ttl / 4).await;
        for guard in &guards {
            guard.check().map_err(|why| format!("{} was lost although it is renewed: {why}", guard.name()))?;
        }
        let another = &guards[count / 2];
        cx.expect_held(&store, &cx.claim(another.name())).await?;
    }
    for guard in guards {
        guard.release().await?;
    }
    Ok(())
}

async fn keeps_the_guards_of_two_users_of_one_handle(cx: Context) -> CaseResult {
    let store = cx.open().await?;
    let (a, b) = (cx.locks_on(store.clone()), cx.locks_on(store));
    let one = a.lock("one").ttl(cx.ttl).acquire().await?;
    let two = b.lock("two").ttl(cx.ttl).acquire().await?;
    tokio::time::sleep(one.ttl() * 2).await;
    one.check().map_err(|why| format!("the first was lost although it is renewed: {why}"))?;
    // Its end must not stop the renewals of the other.
    one.release().await?;
    drop(a);
    tokio::time::sleep(two.ttl() * 2).await;
    two.check().map_err(|why| format!("the second was lost although it is renewed: {why}"))?;
    two.release().await?;
    Ok(())
}

/// Checks that held locks stay held while others are granted and released during the renewals of a
/// session.
async fn of_a_session_keeps_what_is_granted_meanwhile(cx: Context) -> CaseResult {
    let (locks, store) = (cx.locks().await?, cx.open().await?);
    let (mut guards, mut count) = (Vec::new(), 0);
    let first = locks.lock("first").ttl(cx.ttl).acquire().await?;
    let until = cx.clock.now().after(first.ttl() * 3 / 2);
    while cx.clock.now() < until {
        let guard = locks.lock(format!("job/{count}")).ttl(cx.ttl).acquire().await?;
        count += 1;
        match count % 3 {
            0 => guard.release().await?,
            _ => guards.push(guard),
        }
        tokio::time::sleep(cx.ttl / 40).await;
    }
    guards.push(first);
    for guard in &guards {
        guard.check().map_err(|why| format!("{} was lost: {why}", guard.name()))?;
        let by = store
            .inspect(guard.name(), Space::Locks)
            .await?
            .pop()
            .ok_or_else(|| format!("{} is held, and is shown free", guard.name()))?;
        ensure!(by.holder == Some(guard.holder()), "{} is shown as held by {by}", guard.name());
    }
    Ok(())
}

async fn of_a_session_keeps_what_other_sessions_have(cx: Context) -> CaseResult {
    let (a, b) = (cx.locks().await?, cx.locks().await?);
    let guards = [a.lock("a").ttl(cx.ttl).acquire().await?, b.lock("b").ttl(cx.ttl).acquire().await?];
    let store = cx.open().await?;
    let until = cx.clock.now().after(guards[0].ttl() * 3 / 2);
    while cx.clock.now() < until {
        for guard in &guards {
            guard.check().map_err(|why| format!("{} was lost: {why}", guard.name()))?;
            let by = store.inspect(guard.name(), Space::Locks).await?.pop().and_then(|by| by.holder);
            ensure!(by == Some(guard.holder()), "{} is held, and is shown otherwise", guard.name());
        }
        tokio::time::sleep(cx.ttl / 10).await;
    }
    Ok(())
}
