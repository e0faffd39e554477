//! Exclusion: one holder at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use lock_core::{Fault, LockName, LockStore};

use crate::case::cases;
use crate::context::{Context, RequestOutcome, name};
use crate::ensure::{CaseResult, ensure};
use crate::factory::Failure;
use crate::requirement::Requirement;

cases! { "exclusion";
    [] {
        a_held_lock_is_refused_on_every_handle,
        of_many_that_ask_at_once_one_is_granted,
        locks_of_other_names_are_free,
        try_acquire_gives_none_while_another_holds,
        no_two_tasks_of_any_handles_are_inside_at_once,
    }
    [Requirement::RecordsSurvive(Fault::Crash)] { survives_a_crash }
    [Requirement::RecordsSurvive(Fault::PowerLoss)] { survives_a_power_loss }
    [Requirement::RecordsSurvive(Fault::FailOver)] { survives_a_fail_over }
    [Requirement::RecordsSurvive(Fault::MinorityLoss)] { survives_the_loss_of_a_minority }
    [Requirement::RecordsSurvive(Fault::ClockStep)] { survives_a_clock_step }
    [Requirement::RecordsSurvive(Fault::Pause)] { survives_a_pause }
}

async fn a_held_lock_is_refused_on_every_handle(cx: Context) -> CaseResult {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let holder = cx.claim(&job);
    cx.expect_granted(&a, &holder).await?;
    for handle in [&a, &b, &cx.open().await?] {
        for _ in 0..3 {
            cx.expect_held(handle, &cx.claim(&job)).await?;
        }
    }
    cx.release_held(&a, &holder).await
}

async fn of_many_that_ask_at_once_one_is_granted(cx: Context) -> CaseResult {
    let handles = [cx.open().await?, cx.open().await?, cx.open().await?];
    let cx = Arc::new(cx);
    for round in 0..5 {
        let job = name(&format!("job/{round}"));
        let until = cx.clock.now().after(cx.prompt_timeout());
        loop {
            let granted = request_at_once(&cx, &handles, &job).await?;
            ensure!(granted <= 1, "of 12 that asked at once {granted} were granted");
            if granted == 1 {
                break;
            }
            // The members of a quorum can split their votes and refuse all claims; but not for
            // ever.
            ensure!(cx.clock.now() < until, "of 12 that asked at once, again and again, none was ever granted");
        }
    }
    Ok(())
}

/// Requests the lock by twelve claims at once; returns the number of grants.
async fn request_at_once(cx: &Arc<Context>, handles: &[Arc<dyn LockStore>], job: &LockName) -> Result<usize, Failure> {
    let asking: Vec<_> = (handles.iter().cycle().take(12).cloned())
        .map(|store| {
            let (cx, claim) = (cx.clone(), cx.claim(job));
            tokio::spawn(
                async move { cx.request(&store, &claim).await.map(|a| matches!(a, RequestOutcome::Granted(_))) },
            )
        })
        .collect();
    let mut granted = 0;
    for answer in asking {
        granted += usize::from(answer.await??);
    }
    Ok(granted)
}

async fn locks_of_other_names_are_free(cx: Context) -> CaseResult {
    let (a, b) = (cx.open().await?, cx.open().await?);
    cx.expect_granted(&a, &cx.claim(&name("one"))).await?;
    cx.expect_granted(&a, &cx.claim(&name("two"))).await?;
    cx.expect_granted(&b, &cx.claim(&name("three"))).await?;
    Ok(())
}

async fn try_acquire_gives_none_while_another_holds(cx: Context) -> CaseResult {
    let (a, b) = (cx.locks().await?, cx.locks().await?);
    let guard = a.lock("job").try_acquire().await?.ok_or("a free lock was not granted")?;
    for locks in [&a, &b] {
        ensure!(locks.lock("job").try_acquire().await?.is_none(), "a held lock was granted");
    }
    guard.release().await?;
    ensure!(b.lock("job").try_acquire().await?.is_some(), "a released lock was not granted");
    Ok(())
}

async fn no_two_tasks_of_any_handles_are_inside_at_once(cx: Context) -> CaseResult {
    let (inside, total) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicI64::new(0)));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let locks = cx.locks().await?;
        for _ in 0..3 {
            let (locks, inside, total) = (locks.clone(), inside.clone(), total.clone());
            tasks.spawn(async move {
                for _ in 0..3 {
                    let guard = locks.lock("job").acquire().await?;
                    let others = inside.fetch_add(1, Ordering::SeqCst);
                    ensure!(others == 0, "{others} others were inside");
                    let before = total.load(Ordering::SeqCst);
                    tokio::task::yield_now().await;
                    total.store(before + 1, Ordering::SeqCst);
                    inside.fetch_sub(1, Ordering::SeqCst);
                    guard.release().await?;
                }
                CaseResult::Ok(())
            });
        }
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let total = total.load(Ordering::SeqCst);
    ensure!(total == 27, "27 were inside, and {total} were counted");
    Ok(())
}

/// Checks that a lease with much time left still belongs to its holder after the fault.
async fn expect_survival(cx: Context, fault: Fault) -> CaseResult {
    let job = name("job");
    let holder = cx.claim(&job);
    let granted = cx.expect_granted(&cx.open().await?, &holder).await?;
    cx.deployment().inflict(fault).await?;
    let store = cx.open().await?;
    let refused = cx.expect_held(&store, &cx.claim(&job)).await;
    // The lease may have ended if the fault took longer than it.
    if cx.clock.now() < granted.valid_until {
        refused?;
        cx.expect_holder(&store, &holder).await?;
        cx.release_held(&store, &holder).await?;
        cx.expect_free(&store, &job).await?;
    }
    Ok(())
}

async fn survives_a_crash(cx: Context) -> CaseResult {
    expect_survival(cx, Fault::Crash).await
}

async fn survives_a_power_loss(cx: Context) -> CaseResult {
    expect_survival(cx, Fault::PowerLoss).await
}

async fn survives_a_fail_over(cx: Context) -> CaseResult {
    expect_survival(cx, Fault::FailOver).await
}

async fn survives_the_loss_of_a_minority(cx: Context) -> CaseResult {
    expect_survival(cx, Fault::MinorityLoss).await
}

async fn survives_a_clock_step(cx: Context) -> CaseResult {
    expect_survival(cx, Fault::ClockStep).await
}

async fn survives_a_pause(cx: Context) -> CaseResult {
    expect_survival(cx, Fault::Pause).await
}
