//! One holder at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use lock_core::{Claim, Fault};

use crate::case::{Need, Proof, cases, ensure};
use crate::context::{Answer, Context, name};

cases! { "exclusion";
    [] {
        a_held_lock_is_refused_on_every_handle,
        of_many_that_ask_at_once_one_is_granted,
        locks_of_other_names_are_free,
        try_acquire_gives_none_while_another_holds,
        no_two_tasks_of_any_handles_are_inside_at_once,
    }
    [Need::RecordsSurvive(Fault::Crash)] { survives_a_crash }
    [Need::RecordsSurvive(Fault::PowerLoss)] { survives_a_power_loss }
    [Need::RecordsSurvive(Fault::FailOver)] { survives_a_fail_over }
    [Need::RecordsSurvive(Fault::MinorityLoss)] { survives_the_loss_of_a_minority }
    [Need::RecordsSurvive(Fault::ClockStep)] { survives_a_clock_step }
    [Need::RecordsSurvive(Fault::Pause)] { survives_a_pause }
}

async fn a_held_lock_is_refused_on_every_handle(cx: Context) -> Proof {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let holder = cx.claim(&job);
    cx.grant(&a, &holder).await?;
    for handle in [&a, &b, &cx.open().await?] {
        for _ in 0..3 {
            cx.refused(handle, &cx.claim(&job)).await?;
        }
    }
    cx.give_back(&a, &holder).await
}

async fn of_many_that_ask_at_once_one_is_granted(cx: Context) -> Proof {
    let handles = [cx.open().await?, cx.open().await?, cx.open().await?];
    let cx = Arc::new(cx);
    for round in 0..5 {
        let job = name(&format!("job/{round}"));
        let claims: Vec<Claim> = (0..12).map(|_| cx.claim(&job)).collect();
        let asking: Vec<_> = (claims.iter().cloned().zip(handles.iter().cycle().cloned()))
            .map(|(claim, store)| {
                let cx = cx.clone();
                tokio::spawn(async move { cx.ask(&store, &claim).await.map(|a| matches!(a, Answer::Granted(_))) })
            })
            .collect();
        let mut granted = 0;
        for answer in asking {
            granted += usize::from(answer.await??);
        }
        ensure!(granted == 1, "of 12 that asked at once {granted} were granted");
    }
    Ok(())
}

async fn locks_of_other_names_are_free(cx: Context) -> Proof {
    let (a, b) = (cx.open().await?, cx.open().await?);
    cx.grant(&a, &cx.claim(&name("one"))).await?;
    cx.grant(&a, &cx.claim(&name("two"))).await?;
    cx.grant(&b, &cx.claim(&name("three"))).await?;
    Ok(())
}

async fn try_acquire_gives_none_while_another_holds(cx: Context) -> Proof {
    let (a, b) = (cx.locks().await?, cx.locks().await?);
    let guard = a.lock("job").try_acquire().await?.ok_or("a free lock was not granted")?;
    for locks in [&a, &b] {
        ensure!(locks.lock("job").try_acquire().await?.is_none(), "a held lock was granted");
    }
    guard.release().await?;
    ensure!(b.lock("job").try_acquire().await?.is_some(), "a released lock was not granted");
    Ok(())
}

async fn no_two_tasks_of_any_handles_are_inside_at_once(cx: Context) -> Proof {
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
                Proof::Ok(())
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

/// A lease with much time left is still its holder's after the fault.
async fn survives(cx: Context, fault: Fault) -> Proof {
    let job = name("job");
    let holder = cx.claim(&job);
    let granted = cx.grant(&cx.open().await?, &holder).await?;
    cx.deployment().inflict(fault).await?;
    let store = cx.open().await?;
    let refused = cx.refused(&store, &cx.claim(&job)).await;
    // Where the fault took longer than the lease, it may have ended.
    if cx.clock.now() < granted.valid_until {
        refused?;
        cx.shows_holder(&store, &holder).await?;
        cx.give_back(&store, &holder).await?;
        cx.is_free(&store, &job).await?;
    }
    Ok(())
}

async fn survives_a_crash(cx: Context) -> Proof {
    survives(cx, Fault::Crash).await
}

async fn survives_a_power_loss(cx: Context) -> Proof {
    survives(cx, Fault::PowerLoss).await
}

async fn survives_a_fail_over(cx: Context) -> Proof {
    survives(cx, Fault::FailOver).await
}

async fn survives_the_loss_of_a_minority(cx: Context) -> Proof {
    survives(cx, Fault::MinorityLoss).await
}

async fn survives_a_clock_step(cx: Context) -> Proof {
    survives(cx, Fault::ClockStep).await
}

async fn survives_a_pause(cx: Context) -> Proof {
    survives(cx, Fault::Pause).await
}
