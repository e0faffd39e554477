//! P5 and P6: an unknown outcome is resolved or cleaned up.

use std::time::Duration;

use lock_core::Space;

use crate::case::cases;
use crate::context::{Context, name, until};
use crate::ensure::{CaseResult, ensure};
use crate::faults::{Call, Disturbance, Faulty};
use crate::requirement::Requirement;

cases! { "unknown";
    [] {
        the_same_holder_asks_again_and_holds,
        a_waiter_asks_again_and_keeps_its_place,
        an_acquire_whose_reply_was_lost_asks_again_and_holds,
        an_acquire_whose_reply_never_comes_asks_again_and_holds,
        a_lost_reply_of_a_try_is_given_back_soon,
        a_lost_reply_of_a_dropped_acquire_is_given_back_soon,
        a_lost_reply_to_a_waiter_leaves_no_place,
        a_request_that_is_applied_after_its_acquire_ended_is_gone_soon,
        a_release_whose_reply_was_lost_is_repeated_and_harms_no_later_holder,
        a_renewal_whose_reply_was_lost_neither_extends_nor_ends,
    }
    [Requirement::TimedExpiry] { a_request_that_is_applied_beside_other_locks_is_gone_within_one_ttl }
    [Requirement::Sessions] { the_same_holder_asks_again_late_and_stays_on_its_session }
    [Requirement::Tokens] { the_token_after_a_lost_reply_is_that_of_the_lease }
}

const CALL_TIMEOUT: Duration = Duration::from_millis(400);

fn locks_with_short_timeout(cx: &Context, faulty: &std::sync::Arc<Faulty>) -> lock_core::Locks {
    lock_core::Locks::builder_of(faulty.clone()).ttl(cx.long_ttl()).call_timeout(CALL_TIMEOUT.max(cx.ttl)).build()
}

async fn the_same_holder_asks_again_and_holds(cx: Context) -> CaseResult {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let claim = cx.claim(&job);
    // Its reply is dropped, as if it had been lost.
    drop(cx.request(&a, &claim).await?);
    cx.expect_held(&b, &cx.claim(&job)).await?;
    cx.expect_granted(&a, &claim).await?;
    cx.expect_holder(&b, &claim).await?;
    cx.release_held(&a, &claim).await?;
    cx.expect_free(&b, &job).await
}

async fn the_same_holder_asks_again_late_and_stays_on_its_session(cx: Context) -> CaseResult {
    let (a, job) = (cx.open().await?, name("job"));
    let claim = cx.short_claim(&job);
    let granted = cx.expect_granted(&a, &claim).await?;
    let session = granted.lease.session.ok_or("a lease that is renewed is on no session")?;
    // After this, a new claim may get another session.
    until(|| async { session.remaining() < session.ttl() / 2 }).await;
    let again = cx.expect_granted(&a, &claim).await?;
    // On a slow machine the session may have ended; then another session is right.
    let stays = again.lease.session.as_ref() == Some(&session) || !session.is_valid();
    ensure!(stays, "its holder believes by {session:?}, and the lease was moved to {:?}", again.lease.session);
    Ok(())
}

async fn a_waiter_asks_again_and_keeps_its_place(cx: Context) -> CaseResult {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let (holder, waiter) = (cx.claim(&job), cx.queueing_claim(&job));
    cx.expect_granted(&a, &holder).await?;
    for _ in 0..4 {
        cx.expect_held(&b, &waiter).await?;
    }
    cx.release_held(&a, &holder).await?;
    cx.acquire_within(&b, &waiter, cx.prompt_timeout()).await?;
    cx.release_held(&b, &waiter).await?;
    // One entry in the queue is left, not four.
    cx.expect_free(&a, &job).await
}

async fn an_acquire_whose_reply_was_lost_asks_again_and_holds(cx: Context) -> CaseResult {
    repeat_request(cx, Disturbance::FailApplied).await
}

async fn an_acquire_whose_reply_never_comes_asks_again_and_holds(cx: Context) -> CaseResult {
    repeat_request(cx, Disturbance::LoseReply).await
}

async fn repeat_request(cx: Context, step: Disturbance) -> CaseResult {
    let (faulty, b, job) = (Faulty::new(cx.open().await?), cx.open().await?, name("job"));
    faulty.script(Call::Request, [step, step]);
    let locks = locks_with_short_timeout(&cx, &faulty);
    let guard = locks.lock("job").wait(cx.prompt_timeout()).acquire().await?;
    let by = b.inspect(&job, Space::Locks).await?.pop().ok_or("a held lock is shown as free")?;
    ensure!(by.holder == Some(guard.holder()), "it holds the lock, and the store shows {by:?}");
    guard.release().await?;
    cx.expect_free_soon(&b, &job).await
}

async fn the_token_after_a_lost_reply_is_that_of_the_lease(cx: Context) -> CaseResult {
    let (faulty, b, job) = (Faulty::new(cx.open().await?), cx.open().await?, name("job"));
    faulty.script(Call::Request, [Disturbance::FailApplied]);
    let locks = locks_with_short_timeout(&cx, &faulty);
    let acquire = tokio::spawn(locks.lock("job").wait(cx.prompt_timeout()).acquire());
    until(|| async { b.inspect(&job, Space::Locks).await.is_ok_and(|by| by.into_iter().next().is_some()) }).await;
    let first = b.inspect(&job, Space::Locks).await?.pop().and_then(|by| by.token);
    let guard = acquire.await??;
    ensure!(guard.token_if_any().cloned() == first, "given {first:?}, then {:?}", guard.token_if_any());
    guard.release().await?;
    Ok(())
}

async fn a_lost_reply_of_a_try_is_given_back_soon(cx: Context) -> CaseResult {
    for step in [Disturbance::FailApplied, Disturbance::LoseReply] {
        let (faulty, b, job) = (Faulty::new(cx.open().await?), cx.open().await?, name("job"));
        faulty.script(Call::Request, [step]);
        let locks = locks_with_short_timeout(&cx, &faulty);
        let tried = locks.lock("job").try_acquire().await;
        let error = tried.err().ok_or("a try without a reply succeeded")?;
        ensure!(error.may_have_taken_effect(), "the outcome is unknown, and the error says otherwise: {error:?}");
        cx.expect_free_soon(&b, &job).await?;
    }
    Ok(())
}

async fn a_lost_reply_of_a_dropped_acquire_is_given_back_soon(cx: Context) -> CaseResult {
    let (faulty, b, job) = (Faulty::new(cx.open().await?), cx.open().await?, name("job"));
    faulty.script(Call::Request, [Disturbance::LoseReply]);
    let locks = locks_with_short_timeout(&cx, &faulty);
    let acquire = tokio::spawn(locks.lock("job").acquire());
    until(|| async { b.inspect(&job, Space::Locks).await.is_ok_and(|by| by.into_iter().next().is_some()) }).await;
    acquire.abort();
    cx.expect_free_soon(&b, &job).await
}

async fn a_lost_reply_to_a_waiter_leaves_no_place(cx: Context) -> CaseResult {
    let (faulty, b, job) = (Faulty::new(cx.open().await?), cx.open().await?, name("job"));
    let holder = cx.claim(&job);
    cx.expect_granted(&b, &holder).await?;
    faulty.script(Call::Request, [Disturbance::FailApplied, Disturbance::LoseReply]);
    let locks = locks_with_short_timeout(&cx, &faulty);
    let acquire = tokio::spawn(locks.lock("job").acquire());
    until(|| async { faulty.calls(Call::Request) >= 2 }).await;
    acquire.abort();
    cx.release_held(&b, &holder).await?;
    cx.expect_free_soon(&b, &job).await
}

async fn a_request_that_is_applied_after_its_acquire_ended_is_gone_soon(cx: Context) -> CaseResult {
    let (faulty, b, job) = (Faulty::new(cx.open().await?), cx.open().await?, name("job"));
    let late = Duration::from_millis(300);
    faulty.script(Call::Request, [Disturbance::ApplyLate(late)]);
    let locks = locks_with_short_timeout(&cx, &faulty);
    let ended = cx.clock.now().after(late + cx.long_ttl() * 2);
    ensure!(locks.lock("job").try_acquire().await.is_err(), "a try that was cut off succeeded");
    tokio::time::sleep(late).await;
    let next = cx.claim(&job);
    // The withdrawal is retried, with a backoff of at most a quarter of the TTL.
    cx.acquire_within(&b, &next, cx.prompt_timeout()).await?;
    ensure!(cx.clock.now() < ended, "it took longer than one TTL");
    tokio::time::sleep(cx.ttl).await;
    cx.expect_holder(&b, &next).await?;
    cx.release_held(&b, &next).await
}

async fn a_request_that_is_applied_beside_other_locks_is_gone_within_one_ttl(cx: Context) -> CaseResult {
    let (faulty, b, job) = (Faulty::new(cx.open().await?), cx.open().await?, name("job"));
    let locks = locks_with_short_timeout(&cx, &faulty);
    // The renewals of this lock would keep a forgotten lease of a shared session for ever.
    let other = locks.lock("other").ttl(cx.ttl).acquire().await?;
    let late = cx.ttl * 3 / 2;
    faulty.script(Call::Request, [Disturbance::ApplyLate(late)]);
    ensure!(locks.lock("job").ttl(cx.ttl).try_acquire().await.is_err(), "a try that was cut off succeeded");
    tokio::time::sleep(late).await;
    let next = cx.claim(&job);
    cx.acquire_within(&b, &next, other.ttl() + cx.expiry_timeout()).await?;
    cx.release_held(&b, &next).await?;
    other.release().await?;
    Ok(())
}

async fn a_release_whose_reply_was_lost_is_repeated_and_harms_no_later_holder(cx: Context) -> CaseResult {
    for step in [
        Disturbance::FailApplied,
        Disturbance::LoseReply,
        Disturbance::ApplyTwice(cx.ttl / 4),
        Disturbance::ApplyLate(cx.ttl / 4),
    ] {
        let (faulty, b, job) = (Faulty::new(cx.open().await?), cx.open().await?, name("job"));
        let locks = locks_with_short_timeout(&cx, &faulty);
        let guard = locks.lock("job").acquire().await?;
        faulty.script(Call::Release, [step]);
        drop(guard);
        let next = cx.claim(&job);
        cx.acquire_within(&b, &next, cx.prompt_timeout()).await?;
        locks.close().await;
        tokio::time::sleep(cx.ttl / 2).await;
        cx.expect_holder(&b, &next).await?;
        cx.release_held(&b, &next).await?;
    }
    Ok(())
}

async fn a_renewal_whose_reply_was_lost_neither_extends_nor_ends(cx: Context) -> CaseResult {
    let faulty = Faulty::new(cx.open().await?);
    let locks = locks_with_short_timeout(&cx, &faulty);
    let guard = locks.lock("job").acquire().await?;
    for step in [Disturbance::FailApplied, Disturbance::Fail] {
        let before = cx.clock.now().after(guard.remaining());
        faulty.script(Call::Renew, [step]);
        let error = guard.renew().await.err().ok_or("a renewal without an answer succeeded")?;
        guard.check().map_err(|why| format!("an unanswered renewal ended the lease: {why} ({error})"))?;
        let after = cx.clock.now().after(guard.remaining());
        // The clock is read twice between the deadline and its comparison.
        let slack = cx.ttl / 4;
        ensure!(after <= before.after(slack), "an unanswered renewal extended the lease by {:?}", after.since(before));
    }
    guard.renew().await?;
    guard.release().await?;
    Ok(())
}
