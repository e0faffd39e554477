//! P2: a loss is on time and final.

use std::sync::Arc;
use std::time::Duration;

use lock_core::{BreakMode, ErrorKind, LossReason, Space};

use crate::case::cases;
use crate::context::{Context, name};
use crate::ensure::{CaseResult, ensure};
use crate::faults::{Call, Disturbance, Faulty};
use crate::requirement::Requirement;

cases! { "loss";
    [Requirement::TimedExpiry] {
        is_on_time_when_renewals_hang,
        is_on_time_when_renewals_fail,
        is_on_time_when_replies_to_renewals_are_lost,
        is_on_time_after_a_renewal_that_was_answered,
        is_final_when_the_store_answers_later,
        stops_work_that_needs_the_lock,
        is_averted_when_the_store_answers_again_in_time,
        after_a_break_comes_before_a_longer_belief,
    }
    [] { comes_with_the_next_renewal_after_a_break, comes_to_every_copy_of_a_validity }
    [Requirement::EndsSessions] { comes_to_all_guards_when_the_sessions_end }
}

async fn is_on_time_when_renewals_hang(cx: Context) -> CaseResult {
    expect_loss_on_time(cx, Disturbance::Hang).await
}

async fn is_on_time_when_renewals_fail(cx: Context) -> CaseResult {
    expect_loss_on_time(cx, Disturbance::Fail).await
}

async fn is_on_time_when_replies_to_renewals_are_lost(cx: Context) -> CaseResult {
    expect_loss_on_time(cx, Disturbance::LoseReply).await
}

async fn is_on_time_after_a_renewal_that_was_answered(cx: Context) -> CaseResult {
    let faulty = Faulty::new(cx.open().await?);
    faulty.script(Call::Renew, [Disturbance::Pass]);
    expect_loss_on_time_with(cx, faulty, Disturbance::Hang).await
}

async fn expect_loss_on_time(cx: Context, step: Disturbance) -> CaseResult {
    let faulty = Faulty::new(cx.open().await?);
    expect_loss_on_time_with(cx, faulty, step).await
}

/// Checks that a guard whose renewals stop is lost before another claim can be granted.
async fn expect_loss_on_time_with(cx: Context, faulty: Arc<Faulty>, step: Disturbance) -> CaseResult {
    let (b, job) = (cx.open().await?, name("job"));
    faulty.always(Call::Renew, step);
    let guard = cx.locks_on(faulty.clone()).lock("job").ttl(cx.ttl).acquire().await?;
    let validity = guard.validity();
    let lost = tokio::spawn(async move { validity.lost().await });
    // An applied renewal keeps the lease in the store for another TTL.
    let limit = guard.ttl() * 2 + cx.expiry_timeout();
    let next = cx.claim(&job);
    cx.acquire_within(&b, &next, limit).await?;
    ensure!(!guard.is_valid(), "granted to another while the guard is believed in");
    ensure!(guard.remaining().is_zero(), "a lost guard has {:?} left", guard.remaining());
    let why = tokio::time::timeout(cx.expiry_timeout(), lost).await.map_err(|_| "nobody was told of the loss")??;
    ensure!(matches!(why, LossReason::Expired | LossReason::SessionEnded), "it was lost otherwise: {why}");
    ensure!(faulty.calls(Call::Renew) > 0, "the lease was never renewed");
    drop(guard);
    tokio::time::sleep(cx.ttl / 4).await;
    cx.expect_holder(&b, &next).await?;
    cx.release_held(&b, &next).await
}

async fn is_final_when_the_store_answers_later(cx: Context) -> CaseResult {
    let (faulty, store) = (Faulty::new(cx.open().await?), cx.open().await?);
    let locks = cx.locks_on(faulty.clone());
    faulty.always(Call::Renew, Disturbance::DelayReply(cx.ttl * 3 / 2));
    let guard = locks.lock("job").ttl(cx.ttl).acquire().await?;
    let limit = guard.ttl() + cx.expiry_timeout();
    tokio::time::timeout(limit, guard.lost()).await.map_err(|_| "the guard was not lost at its end")?;
    faulty.heal();
    let until = cx.clock.now().after(guard.ttl() * 2);
    while cx.clock.now() < until {
        ensure!(!guard.is_valid() && guard.remaining().is_zero(), "a lost guard is believed in again");
        tokio::time::sleep(cx.ttl / 10).await;
    }
    let error = guard.renew().await.err().ok_or("a lost guard was renewed")?;
    ensure!(error.kind() == ErrorKind::Lost, "the renewal of a lost guard failed otherwise: {error:?}");
    let error = guard.release().await.err().ok_or("the release of a lost guard says that it was held until now")?;
    ensure!(error.kind() == ErrorKind::Lost, "the release of a lost guard failed otherwise: {error:?}");
    cx.expect_free_soon(&store, &name("job")).await
}

async fn stops_work_that_needs_the_lock(cx: Context) -> CaseResult {
    let faulty = Faulty::new(cx.open().await?);
    faulty.always(Call::Renew, Disturbance::Hang);
    let guard = cx.locks_on(faulty).lock("job").ttl(cx.ttl).acquire().await?;
    let limit = guard.ttl() + cx.expiry_timeout();
    let work = guard.while_held(std::future::pending::<()>());
    let ended = tokio::time::timeout(limit, work).await.map_err(|_| "work went on after the loss")?;
    ensure!(ended.is_err(), "work that came to no end says that it did");
    let after = guard.while_held(async {}).await;
    ensure!(after.is_err(), "work was done under a lost guard");
    Ok(())
}

async fn is_averted_when_the_store_answers_again_in_time(cx: Context) -> CaseResult {
    let faulty = Faulty::new(cx.open().await?);
    faulty.script(Call::Renew, [Disturbance::Fail, Disturbance::FailApplied]);
    let guard = cx.locks_on(faulty.clone()).lock("job").ttl(cx.ttl).acquire().await?;
    let until = cx.clock.now().after(guard.ttl() * 2);
    while cx.clock.now() < until {
        guard.check().map_err(|why| format!("lost after two renewals that failed: {why}"))?;
        tokio::time::sleep(cx.ttl / 10).await;
    }
    ensure!(faulty.calls(Call::Renew) > 2, "it was renewed {} times", faulty.calls(Call::Renew));
    guard.release().await?;
    Ok(())
}

async fn comes_with_the_next_renewal_after_a_break(cx: Context) -> CaseResult {
    let (locks, store, job) = (cx.locks().await?, cx.open().await?, name("job"));
    for how in [BreakMode::Now, BreakMode::Revoke] {
        let other = locks.lock("other").ttl(cx.ttl).acquire().await?;
        let guard = locks.lock("job").ttl(cx.ttl).wait(cx.prompt_timeout()).acquire().await?;
        let seen = store.inspect(&job, Space::Locks).await?.pop().ok_or("a held lock is shown as free")?;
        store.break_lock(&job, &seen, how).await?.ok_or("the holder that was seen was not evicted")?;
        // Renewals are answered, so it is not lost by time.
        let lost = tokio::time::timeout(guard.ttl() * 2 + Duration::from_secs(5), guard.lost()).await;
        let why = lost.map_err(|_| format!("after {how:?} the guard is still believed in"))?;
        ensure!(why == LossReason::NotHeld, "after {how:?} it was lost otherwise: {why}");
        other.check().map_err(|why| format!("{how:?} of one lock lost another: {why}"))?;
        other.release().await?;
    }
    Ok(())
}

/// The renewal that reports the loss must not extend the belief first, not even for a moment: a
/// hang in between would keep the extended belief.
async fn after_a_break_comes_before_a_longer_belief(cx: Context) -> CaseResult {
    let (locks, store, job) = (cx.locks().await?, cx.open().await?, name("job"));
    let guard = locks.lock("job").ttl(cx.long_ttl()).acquire().await?;
    tokio::time::sleep(cx.ttl / 2).await;
    let seen = store.inspect(&job, Space::Locks).await?.pop().ok_or("a held lock is shown as free")?;
    store.break_lock(&job, &seen, BreakMode::Now).await?.ok_or("the holder that was seen was not evicted")?;
    let mut longest = guard.remaining();
    let mut renewal = std::pin::pin!(guard.renew());
    loop {
        tokio::select! {
            renewed = &mut renewal => {
                ensure!(renewed.is_err(), "the renewal of a broken lock says that it is held");
                return Ok(());
            }
            () = tokio::time::sleep(Duration::from_millis(1)) => {}
        }
        let remaining = guard.remaining();
        ensure!(remaining <= longest, "a broken guard was believed in for {longest:?}, and then for {remaining:?}");
        longest = remaining;
    }
}

async fn comes_to_every_copy_of_a_validity(cx: Context) -> CaseResult {
    let guard = cx.locks().await?.lock("job").acquire().await?;
    let copies: Vec<_> = (0..4).map(|_| guard.validity()).collect();
    let losses: Vec<_> = copies
        .iter()
        .map(lock_core::Validity::validity)
        .map(|copy| tokio::spawn(async move { copy.lost().await }))
        .collect();
    guard.release().await?;
    for copy in copies {
        ensure!(copy.check() == Err(LossReason::Released), "a copy of a released guard says {:?}", copy.check());
    }
    for loss in losses {
        ensure!(
            tokio::time::timeout(cx.prompt_timeout(), loss).await?? == LossReason::Released,
            "a copy was told otherwise"
        );
    }
    Ok(())
}

async fn comes_to_all_guards_when_the_sessions_end(cx: Context) -> CaseResult {
    let (locks, store) = (cx.locks().await?, cx.open().await?);
    let mut guards = Vec::new();
    for i in 0..5 {
        guards.push(locks.lock(format!("job/{i}")).acquire().await?);
    }
    cx.deployment().end_sessions().await?;
    for guard in &guards {
        let lost = tokio::time::timeout(cx.prompt_timeout(), guard.lost()).await;
        let why = lost.map_err(|_| "a guard is believed in whose session has ended")?;
        ensure!(why == LossReason::SessionEnded, "it was lost otherwise: {why}");
    }
    cx.expect_free_soon(&store, guards[0].name()).await?;
    locks.lock("job/0").wait(cx.prompt_timeout()).acquire().await?.release().await?;
    Ok(())
}
