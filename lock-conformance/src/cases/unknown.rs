//! P5 and P6: an outcome that is unknown is found out, or cleaned up.

use std::time::Duration;

use crate::case::{Need, Proof, cases, ensure};
use crate::context::{Context, name, until};
use crate::faults::{Call, Disturbance, Faulty};

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
    [Need::Time] { a_request_that_is_applied_beside_other_locks_is_gone_within_one_ttl }
    [Need::Sessions] { the_same_holder_asks_again_late_and_stays_on_its_session }
    [Need::Tokens] { the_token_after_a_lost_reply_is_that_of_the_lease }
}

const CALL: Duration = Duration::from_millis(400);

fn impatient(cx: &Context, faulty: &std::sync::Arc<Faulty>) -> lock_core::Locks {
    lock_core::Locks::builder_of(faulty.clone()).ttl(cx.long()).call_timeout(CALL.max(cx.ttl)).build()
}

async fn the_same_holder_asks_again_and_holds(cx: Context) -> Proof {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let claim = cx.claim(&job);
    // Its reply is dropped, as if it had been lost.
    drop(cx.ask(&a, &claim).await?);
    cx.refused(&b, &cx.claim(&job)).await?;
    cx.grant(&a, &claim).await?;
    cx.shows_holder(&b, &claim).await?;
    cx.give_back(&a, &claim).await?;
    cx.is_free(&b, &job).await
}

async fn the_same_holder_asks_again_late_and_stays_on_its_session(cx: Context) -> Proof {
    let (a, job) = (cx.open().await?, name("job"));
    let claim = cx.brief(&job);
    let granted = cx.grant(&a, &claim).await?;
    let session = granted.lease.session.ok_or("a lease that is renewed is on no session")?;
    // By now another claim may well get another session.
    until(|| async { session.remaining() < session.ttl() / 2 }).await;
    let again = cx.grant(&a, &claim).await?;
    // Where the machine was so slow that the session has ended, another was right.
    let stays = again.lease.session.as_ref() == Some(&session) || !session.is_valid();
    ensure!(stays, "its holder believes by {session:?}, and the lease was moved to {:?}", again.lease.session);
    Ok(())
}

async fn a_waiter_asks_again_and_keeps_its_place(cx: Context) -> Proof {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let (holder, waiter) = (cx.claim(&job), cx.queueing(&job));
    cx.grant(&a, &holder).await?;
    for _ in 0..4 {
        cx.refused(&b, &waiter).await?;
    }
    cx.give_back(&a, &holder).await?;
    cx.grant_within(&b, &waiter, cx.soon()).await?;
    cx.give_back(&b, &waiter).await?;
    // It left one place, not four.
    cx.is_free(&a, &job).await
}

async fn an_acquire_whose_reply_was_lost_asks_again_and_holds(cx: Context) -> Proof {
    asks_again(cx, Disturbance::FailApplied).await
}

async fn an_acquire_whose_reply_never_comes_asks_again_and_holds(cx: Context) -> Proof {
    asks_again(cx, Disturbance::LoseReply).await
}

async fn asks_again(cx: Context, step: Disturbance) -> Proof {
    let (faulty, b, job) = (Faulty::new(cx.open().await?), cx.open().await?, name("job"));
    faulty.script(Call::Request, [step, step]);
    let locks = impatient(&cx, &faulty);
    let guard = locks.lock("job").wait(cx.soon()).acquire().await?;
    let by = b.inspect(&job).await?.ok_or("a held lock is shown as free")?;
    ensure!(by.holder == Some(guard.holder()), "it holds the lock, and the store shows {by:?}");
    guard.release().await?;
    cx.becomes_free(&b, &job).await
}

async fn the_token_after_a_lost_reply_is_that_of_the_lease(cx: Context) -> Proof {
    let (faulty, b, job) = (Faulty::new(cx.open().await?), cx.open().await?, name("job"));
    faulty.script(Call::Request, [Disturbance::FailApplied]);
    let locks = impatient(&cx, &faulty);
    let acquire = tokio::spawn(locks.lock("job").wait(cx.soon()).acquire());
    until(|| async { b.inspect(&job).await.is_ok_and(|by| by.is_some()) }).await;
    let first = b.inspect(&job).await?.and_then(|by| by.token);
    let guard = acquire.await??;
    ensure!(guard.token_if_any().cloned() == first, "given {first:?}, then {:?}", guard.token_if_any());
    guard.release().await?;
    Ok(())
}

async fn a_lost_reply_of_a_try_is_given_back_soon(cx: Context) -> Proof {
    for step in [Disturbance::FailApplied, Disturbance::LoseReply] {
        let (faulty, b, job) = (Faulty::new(cx.open().await?), cx.open().await?, name("job"));
        faulty.script(Call::Request, [step]);
        let locks = impatient(&cx, &faulty);
        let tried = locks.lock("job").try_acquire().await;
        let error = tried.err().ok_or("a try without a reply succeeded")?;
        ensure!(error.may_have_taken_effect(), "the outcome is unknown, and the error says otherwise: {error:?}");
        cx.becomes_free(&b, &job).await?;
    }
    Ok(())
}

async fn a_lost_reply_of_a_dropped_acquire_is_given_back_soon(cx: Context) -> Proof {
    let (faulty, b, job) = (Faulty::new(cx.open().await?), cx.open().await?, name("job"));
    faulty.script(Call::Request, [Disturbance::LoseReply]);
    let locks = impatient(&cx, &faulty);
    let acquire = tokio::spawn(locks.lock("job").acquire());
    until(|| async { b.inspect(&job).await.is_ok_and(|by| by.is_some()) }).await;
    acquire.abort();
    cx.becomes_free(&b, &job).await
}

async fn a_lost_reply_to_a_waiter_leaves_no_place(cx: Context) -> Proof {
    let (faulty, b, job) = (Faulty::new(cx.open().await?), cx.open().await?, name("job"));
    let holder = cx.claim(&job);
    cx.grant(&b, &holder).await?;
    faulty.script(Call::Request, [Disturbance::FailApplied, Disturbance::LoseReply]);
    let locks = impatient(&cx, &faulty);
    let acquire = tokio::spawn(locks.lock("job").acquire());
    until(|| async { faulty.calls(Call::Request) >= 2 }).await;
    acquire.abort();
    cx.give_back(&b, &holder).await?;
    cx.becomes_free(&b, &job).await
}

async fn a_request_that_is_applied_after_its_acquire_ended_is_gone_soon(cx: Context) -> Proof {
    let (faulty, b, job) = (Faulty::new(cx.open().await?), cx.open().await?, name("job"));
    let late = Duration::from_millis(300);
    faulty.script(Call::Request, [Disturbance::ApplyLate(late)]);
    let locks = impatient(&cx, &faulty);
    let ended = cx.clock.now().after(late + cx.long() * 2);
    ensure!(locks.lock("job").try_acquire().await.is_err(), "a try that was cut off succeeded");
    tokio::time::sleep(late).await;
    let next = cx.claim(&job);
    // Withdrawing goes on, in growing pauses of a quarter of the TTL at most.
    cx.grant_within(&b, &next, cx.soon()).await?;
    ensure!(cx.clock.now() < ended, "it took longer than one TTL");
    tokio::time::sleep(cx.ttl).await;
    cx.shows_holder(&b, &next).await?;
    cx.give_back(&b, &next).await
}

async fn a_request_that_is_applied_beside_other_locks_is_gone_within_one_ttl(cx: Context) -> Proof {
    let (faulty, b, job) = (Faulty::new(cx.open().await?), cx.open().await?, name("job"));
    let locks = impatient(&cx, &faulty);
    // What is renewed beside it would keep it for ever, if it were forgotten on a shared session.
    let other = locks.lock("other").ttl(cx.ttl).acquire().await?;
    let late = cx.ttl * 3 / 2;
    faulty.script(Call::Request, [Disturbance::ApplyLate(late)]);
    ensure!(locks.lock("job").ttl(cx.ttl).try_acquire().await.is_err(), "a try that was cut off succeeded");
    tokio::time::sleep(late).await;
    let next = cx.claim(&job);
    cx.grant_within(&b, &next, other.ttl() + cx.patience()).await?;
    cx.give_back(&b, &next).await?;
    other.release().await?;
    Ok(())
}

async fn a_release_whose_reply_was_lost_is_repeated_and_harms_no_later_holder(cx: Context) -> Proof {
    for step in [
        Disturbance::FailApplied,
        Disturbance::LoseReply,
        Disturbance::ApplyTwice(cx.ttl / 4),
        Disturbance::ApplyLate(cx.ttl / 4),
    ] {
        let (faulty, b, job) = (Faulty::new(cx.open().await?), cx.open().await?, name("job"));
        let locks = impatient(&cx, &faulty);
        let guard = locks.lock("job").acquire().await?;
        faulty.script(Call::Release, [step]);
        drop(guard);
        let next = cx.claim(&job);
        cx.grant_within(&b, &next, cx.soon()).await?;
        locks.close().await;
        tokio::time::sleep(cx.ttl / 2).await;
        cx.shows_holder(&b, &next).await?;
        cx.give_back(&b, &next).await?;
    }
    Ok(())
}

async fn a_renewal_whose_reply_was_lost_neither_extends_nor_ends(cx: Context) -> Proof {
    let faulty = Faulty::new(cx.open().await?);
    let locks = impatient(&cx, &faulty);
    let guard = locks.lock("job").acquire().await?;
    for step in [Disturbance::FailApplied, Disturbance::Fail] {
        let before = cx.clock.now().after(guard.remaining());
        faulty.script(Call::Renew, [step]);
        let error = guard.renew().await.err().ok_or("a renewal without an answer succeeded")?;
        guard.check().map_err(|why| format!("an unanswered renewal ended the lease: {why} ({error})"))?;
        let after = cx.clock.now().after(guard.remaining());
        // Two readings of the clock lie between the deadline and its comparison.
        let slack = cx.ttl / 4;
        ensure!(after <= before.after(slack), "an unanswered renewal extended the lease by {:?}", after.since(before));
    }
    guard.renew().await?;
    guard.release().await?;
    Ok(())
}
