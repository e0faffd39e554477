//! P1: a lease is kept for as long as its holder may believe in it, and is freed afterwards without
//! a renewal.

use lock_core::{ErrorKind, Expiry, LossReason, Moment};

use crate::case::cases;
use crate::context::{Context, name};
use crate::ensure::{CaseResult, ensure};
use crate::requirement::Requirement;

cases! { "expiry";
    [Requirement::TimedExpiry] {
        a_lease_is_kept_while_it_may_be_believed_in_and_freed_afterwards,
        a_lease_that_ended_is_granted_to_the_next_on_another_handle,
        asking_again_gives_a_full_ttl,
        a_fixed_lease_is_lost_at_its_end_and_freed,
        a_lease_ends_without_harm_to_those_of_other_names,
    }
    [] { a_guard_is_believed_in_for_less_than_the_ttl_that_was_granted }
}

/// Requests the lock on `handle` until it is granted, which must be after `valid_until`, and soon.
async fn expect_freed_on_time(
    cx: &Context,
    handle: &std::sync::Arc<dyn lock_core::LockStore>,
    job: &lock_core::LockName,
    valid_until: Moment,
) -> CaseResult {
    let next = cx.claim(job);
    let limit = cx.clock.until(valid_until) + cx.expiry_timeout();
    cx.acquire_within(handle, &next, limit).await?;
    let early = valid_until.since(cx.clock.now());
    ensure!(early.is_zero(), "granted to another {early:?} before the belief of its holder ended");
    cx.release_held(handle, &next).await
}

async fn a_lease_is_kept_while_it_may_be_believed_in_and_freed_afterwards(cx: Context) -> CaseResult {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    for claim in [cx.short_claim(&job), cx.short_claim(&job)] {
        let granted = cx.expect_granted(&a, &claim).await?;
        expect_freed_on_time(&cx, &b, &job, granted.valid_until).await?;
    }
    Ok(())
}

async fn a_lease_that_ended_is_granted_to_the_next_on_another_handle(cx: Context) -> CaseResult {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let earlier = cx.short_claim(&job);
    cx.expect_granted(&a, &earlier).await?;
    let next = cx.claim(&job);
    cx.acquire_within(&b, &next, cx.expiry_timeout()).await?;
    cx.expect_holder(&a, &next).await?;
    // The former holder is a stranger now.
    cx.expect_held(&a, &earlier).await?;
    cx.release_held(&b, &next).await
}

async fn asking_again_gives_a_full_ttl(cx: Context) -> CaseResult {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let claim = cx.short_claim(&job);
    cx.expect_granted(&a, &claim).await?;
    tokio::time::sleep(cx.ttl / 2).await;
    let again = cx.expect_granted(&a, &claim).await?;
    if matches!(cx.guarantees.expiry, Some(Expiry::Ttl(_))) {
        ensure!(again.lease.ttl >= cx.ttl, "asked for {:?}, and given {:?}", cx.ttl, again.lease.ttl);
    }
    expect_freed_on_time(&cx, &b, &job, again.valid_until).await
}

async fn a_fixed_lease_is_lost_at_its_end_and_freed(cx: Context) -> CaseResult {
    let (locks, b, job) = (cx.locks().await?, cx.open().await?, name("job"));
    let sent = cx.clock.now();
    let guard = locks.lock("job").ttl(cx.ttl).fixed().acquire().await?;
    let ends = sent.after(guard.ttl());
    let lost = tokio::time::timeout(guard.ttl() + cx.expiry_timeout(), guard.lost()).await?;
    ensure!(lost == LossReason::Expired, "a fixed lease was lost otherwise: {lost}");
    ensure!(cx.clock.now() >= sent.after(guard.remaining()), "it was lost before its time");
    let error = guard.renew().await.err().ok_or("a fixed lease was renewed after its end")?;
    ensure!(error.kind() == ErrorKind::Lost, "the renewal of a lost lease failed otherwise: {error:?}");
    let next = cx.claim(&job);
    cx.acquire_within(&b, &next, cx.clock.until(ends) + cx.expiry_timeout()).await?;
    ensure!(!guard.is_valid(), "granted to another while its guard is believed in");
    Ok(())
}

async fn a_lease_ends_without_harm_to_those_of_other_names(cx: Context) -> CaseResult {
    let (a, b) = (cx.open().await?, cx.open().await?);
    let (brief, long) = (cx.short_claim(&name("job")), cx.claim(&name("job/other")));
    cx.expect_granted(&a, &brief).await?;
    cx.expect_granted(&a, &long).await?;
    cx.acquire_within(&b, &cx.claim(&name("job")), cx.expiry_timeout()).await?;
    cx.expect_holder(&b, &long).await?;
    cx.release_held(&a, &long).await
}

async fn a_guard_is_believed_in_for_less_than_the_ttl_that_was_granted(cx: Context) -> CaseResult {
    let locks = cx.locks().await?;
    let sent = cx.clock.now();
    let guard = locks.lock("job").acquire().await?;
    let believed = cx.clock.now().after(guard.remaining());
    // A renewal may have come in between: then the TTL counts from now.
    let limit = sent.after(guard.ttl() + cx.clock.now().since(sent));
    ensure!(believed <= limit, "it is believed in {:?} beyond its TTL", believed.since(limit));
    ensure!(guard.is_valid(), "a fresh guard is lost: {:?}", guard.check());
    guard.release().await?;
    Ok(())
}
