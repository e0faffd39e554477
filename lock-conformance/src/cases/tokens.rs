//! P4: fencing tokens rise.

use lock_core::{BreakMode, ErrorKind, Fault, FencingToken, Space};

use crate::case::cases;
use crate::context::{Context, name};
use crate::ensure::{CaseResult, ensure};
use crate::requirement::Requirement;

cases! { "tokens";
    [] { the_realm_is_the_same_on_every_handle, a_new_realm_is_another }
    [Requirement::Tokens] {
        are_of_the_realm_of_the_store,
        rise_across_releases,
        rise_across_breaks,
        rise_for_each_of_many_names,
        rise_when_all_handles_were_closed_and_opened_again,
        stay_the_same_when_the_same_holder_asks_again,
        stay_the_same_while_a_guard_is_renewed,
        of_a_new_realm_do_not_compare_with_the_old,
    }
    [Requirement::Tokens, Requirement::TimedExpiry] { rise_across_ends_of_leases, rise_from_holder_to_waiter }
    [Requirement::TokensSurvive(Fault::Crash)] { rise_across_a_crash }
    [Requirement::TokensSurvive(Fault::PowerLoss)] { rise_across_a_power_loss }
    [Requirement::TokensSurvive(Fault::FailOver)] { rise_across_a_fail_over }
    [Requirement::TokensSurvive(Fault::MinorityLoss)] { rise_across_the_loss_of_a_minority }
    [Requirement::TokensSurvive(Fault::ClockStep)] { rise_across_a_clock_step }
    [Requirement::TokensSurvive(Fault::Pause)] { rise_across_a_pause }
}

/// Acquires and releases once; checks that the token is greater than `last`, and stores it there.
async fn acquire_next(
    cx: &Context,
    store: &std::sync::Arc<dyn lock_core::LockStore>,
    job: &lock_core::LockName,
    last: &mut Option<FencingToken>,
) -> CaseResult {
    let claim = cx.claim(job);
    let token = cx.acquire_within(store, &claim, cx.prompt_timeout()).await?.token()?;
    expect_greater(last, token)?;
    cx.release_held(store, &claim).await
}

fn expect_greater(last: &mut Option<FencingToken>, token: FencingToken) -> CaseResult {
    if let Some(last) = last {
        ensure!(token > *last, "a later lease has token {token}, after {last}");
    }
    *last = Some(token);
    Ok(())
}

async fn the_realm_is_the_same_on_every_handle(cx: Context) -> CaseResult {
    let first = cx.open().await?;
    let realm = first.realm();
    for _ in 0..2 {
        let other = cx.open().await?.realm();
        ensure!(realm == other, "one handle is of {realm}, another of {other}");
    }
    drop(first);
    let later = cx.open().await?.realm();
    ensure!(realm == later, "it was {realm}, and became {later} when it was opened again");
    Ok(())
}

async fn a_new_realm_is_another(cx: Context) -> CaseResult {
    let store = cx.open().await?;
    let old = store.realm();
    match store.new_realm().await {
        Ok(new) => {
            ensure!(new != old, "the new realm is the old one: {old}");
            ensure!(store.realm() == new, "a handle that began {new} is of {}", store.realm());
            let later = cx.open().await?.realm();
            ensure!(later == new, "a handle that was opened after {new} began is of {later}");
        }
        // Where the server decides the realm, it cannot be replaced.
        Err(error) => {
            ensure!(error.kind() == ErrorKind::InvalidConfig, "beginning a realm failed: {error:?}");
            ensure!(store.realm() == old, "beginning a realm was refused, and changed it to {}", store.realm());
        }
    }
    Ok(())
}

async fn of_a_new_realm_do_not_compare_with_the_old(cx: Context) -> CaseResult {
    let (store, job) = (cx.open().await?, name("job"));
    let mut last = None;
    acquire_next(&cx, &store, &job, &mut last).await?;
    if store.new_realm().await.is_err() {
        return Ok(());
    }
    let claim = cx.claim(&job);
    let token = cx.expect_granted(&store, &claim).await?.token()?;
    ensure!(token.partial_cmp(last.as_ref().ok_or("no token")?).is_none(), "{token} compares with {last:?}");
    Ok(())
}

async fn are_of_the_realm_of_the_store(cx: Context) -> CaseResult {
    let store = cx.open().await?;
    let token = cx.expect_granted(&store, &cx.claim(&name("job"))).await?.token()?;
    ensure!(*token.realm() == store.realm(), "the token {token} is not of the realm {}", store.realm());
    Ok(())
}

async fn rise_across_releases(cx: Context) -> CaseResult {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let mut last = None;
    for round in 0..20 {
        acquire_next(&cx, if round % 3 == 0 { &a } else { &b }, &job, &mut last).await?;
    }
    Ok(())
}

async fn rise_across_ends_of_leases(cx: Context) -> CaseResult {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let mut last = None;
    for store in [&a, &b, &a] {
        let claim = cx.short_claim(&job);
        expect_greater(&mut last, cx.acquire_within(store, &claim, cx.expiry_timeout()).await?.token()?)?;
    }
    Ok(())
}

async fn rise_from_holder_to_waiter(cx: Context) -> CaseResult {
    let (a, b) = (cx.locks().await?, cx.locks().await?);
    let first = a.lock("job").acquire().await?;
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let on_wait = move |_: &lock_core::HeldBy| {
        // Only the first is awaited.
        let _ = sender.send(());
    };
    let waiter = tokio::spawn(b.lock("job").wait(cx.prompt_timeout()).on_wait(on_wait).acquire());
    receiver.recv().await.ok_or("the waiter did not wait")?;
    let mut last = first.token_if_any().cloned();
    ensure!(last.is_some(), "a guard has no token");
    first.release().await?;
    let second = waiter.await??;
    expect_greater(&mut last, second.token_if_any().cloned().ok_or("a guard has no token")?)?;
    second.release().await?;
    Ok(())
}

async fn rise_across_breaks(cx: Context) -> CaseResult {
    let (store, job) = (cx.open().await?, name("job"));
    let mut last = None;
    for _ in 0..4 {
        let claim = cx.claim(&job);
        expect_greater(&mut last, cx.expect_granted(&store, &claim).await?.token()?)?;
        let seen = cx.expect_holder(&store, &claim).await?;
        store.break_lock(&job, &seen, BreakMode::Now).await?.ok_or("the holder that was seen was not evicted")?;
    }
    acquire_next(&cx, &store, &job, &mut last).await
}

async fn rise_for_each_of_many_names(cx: Context) -> CaseResult {
    let (a, b) = (cx.open().await?, cx.open().await?);
    let mut names: Vec<_> = (0..30).map(|i| (name(&format!("job/{i}")), None)).collect();
    for store in [&a, &b, &a] {
        for (job, last) in &mut names {
            acquire_next(&cx, store, job, last).await?;
        }
    }
    Ok(())
}

async fn rise_when_all_handles_were_closed_and_opened_again(cx: Context) -> CaseResult {
    let job = name("job");
    let mut last = None;
    for _ in 0..4 {
        let store = cx.open().await?;
        acquire_next(&cx, &store, &job, &mut last).await?;
    }
    Ok(())
}

async fn stay_the_same_when_the_same_holder_asks_again(cx: Context) -> CaseResult {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let claim = cx.claim(&job);
    let token = cx.expect_granted(&a, &claim).await?.token()?;
    for _ in 0..3 {
        let again = cx.expect_granted(&a, &claim).await?.token()?;
        ensure!(again == token, "the same holder was given {token}, and then {again}");
        // A try of another claim in between must not matter.
        cx.expect_held(&b, &cx.claim(&job)).await?;
    }
    cx.release_held(&a, &claim).await
}

async fn stay_the_same_while_a_guard_is_renewed(cx: Context) -> CaseResult {
    let (locks, store) = (cx.locks().await?, cx.open().await?);
    let guard = locks.lock("job").acquire().await?;
    let token = guard.token_if_any().cloned();
    guard.renew().await?;
    guard.renew().await?;
    let by = store.inspect(guard.name(), Space::Locks).await?.pop().ok_or("a renewed lock is shown as free")?;
    ensure!(by.token == token, "renewing changed the token from {token:?} to {:?}", by.token);
    guard.release().await?;
    Ok(())
}

async fn expect_survival(cx: Context, fault: Fault) -> CaseResult {
    let job = name("job");
    let mut last = None;
    for _ in 0..3 {
        let store = cx.open().await?;
        for _ in 0..3 {
            acquire_next(&cx, &store, &job, &mut last).await?;
        }
        cx.deployment().inflict(fault).await?;
    }
    acquire_next(&cx, &cx.open().await?, &job, &mut last).await
}

async fn rise_across_a_crash(cx: Context) -> CaseResult {
    expect_survival(cx, Fault::Crash).await
}

async fn rise_across_a_power_loss(cx: Context) -> CaseResult {
    expect_survival(cx, Fault::PowerLoss).await
}

async fn rise_across_a_fail_over(cx: Context) -> CaseResult {
    expect_survival(cx, Fault::FailOver).await
}

async fn rise_across_the_loss_of_a_minority(cx: Context) -> CaseResult {
    expect_survival(cx, Fault::MinorityLoss).await
}

async fn rise_across_a_clock_step(cx: Context) -> CaseResult {
    expect_survival(cx, Fault::ClockStep).await
}

async fn rise_across_a_pause(cx: Context) -> CaseResult {
    expect_survival(cx, Fault::Pause).await
}
