//! The duties of a quorum member: tokens that can be raised, and honest retention.

use std::sync::Arc;

use lock_core::{BreakMode, Claim, ErrorKind, Fault, Faults, LockStore, RaiseOutcome, Retention, Space};

use crate::case::cases;
use crate::context::{Context, name};
use crate::ensure::{CaseResult, ensure};
use crate::factory::Failure;
use crate::requirement::Requirement;

cases! { "raising";
    [] { a_store_whose_records_survive_a_crash_and_a_power_loss_remembers_everything }
    [Requirement::TokenRaiser, Requirement::Tokens] {
        gives_the_lease_the_token_and_later_leases_greater_ones,
        to_the_same_token_again_changes_nothing,
        below_the_counter_lowers_nothing,
        below_the_token_of_the_lease_is_refused,
        by_a_stranger_is_refused_and_changes_nothing,
        of_a_lease_that_was_given_back_or_broken_is_refused,
        beyond_what_a_token_can_follow_is_no_success,
    }
    [Requirement::TokenRaiser, Requirement::Tokens, Requirement::TimedExpiry] { moves_no_end_of_a_lease }
}

async fn raise(store: &Arc<dyn LockStore>, claim: &Claim, number: u64) -> Result<RaiseOutcome, Failure> {
    let raiser = store.token_raiser().ok_or("one handle raises tokens, and another does not")?;
    Ok(raiser.raise(claim, number).await?)
}

/// The token number that the store shows for this claim.
async fn shown_token(cx: &Context, store: &Arc<dyn LockStore>, claim: &Claim) -> Result<u64, Failure> {
    let by = cx.expect_holder(store, claim).await?;
    Ok(by.token.ok_or("a lease is shown without its token")?.number())
}

async fn a_store_whose_records_survive_a_crash_and_a_power_loss_remembers_everything(cx: Context) -> CaseResult {
    let store = cx.open().await?;
    let lease = cx.expect_granted(&store, &cx.claim(&name("job"))).await?.lease;
    // A store that survives only one of the two cannot know which one ended it.
    let survives = cx.guarantees.records_survive.contains(Faults::of(&[Fault::Crash, Fault::PowerLoss]));
    ensure!(!survives || lease.retention == Retention::Complete, "it says that it remembers {:?}", lease.retention);
    Ok(())
}

async fn gives_the_lease_the_token_and_later_leases_greater_ones(cx: Context) -> CaseResult {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let claim = cx.claim(&job);
    let number = cx.expect_granted(&a, &claim).await?.token()?.number() + 1000;
    ensure!(
        raise(&b, &claim, number).await? == RaiseOutcome::Raised,
        "a lease that is held was not raised to {number}"
    );
    ensure!(shown_token(&cx, &a, &claim).await? == number, "it was raised to {number}, and is shown otherwise");
    let again = cx.expect_granted(&a, &claim).await?.token()?.number();
    ensure!(again == number, "raised to {number}, the same holder is given {again}");
    cx.release_held(&a, &claim).await?;
    let later = cx.expect_granted(&b, &cx.claim(&job)).await?.token()?.number();
    ensure!(later > number, "a later lease has {later}, after one was raised to {number}");
    Ok(())
}

async fn to_the_same_token_again_changes_nothing(cx: Context) -> CaseResult {
    let (store, claim) = (cx.open().await?, cx.claim(&name("job")));
    let number = cx.expect_granted(&store, &claim).await?.token()?.number();
    // Other names may share the counter: tokens granted to them meanwhile are no reason to refuse.
    let other = cx.claim(&name("other"));
    cx.expect_granted(&store, &other).await?;
    for number in [number, number, number + 7, number + 7] {
        ensure!(raise(&store, &claim, number).await? == RaiseOutcome::Raised, "it was not raised to {number}");
        ensure!(shown_token(&cx, &store, &claim).await? == number, "it was raised to {number}, and is shown otherwise");
    }
    Ok(())
}

async fn below_the_counter_lowers_nothing(cx: Context) -> CaseResult {
    let (store, claim, other) = (cx.open().await?, cx.claim(&name("job")), name("other"));
    let number = cx.expect_granted(&store, &claim).await?.token()?.number();
    let mut before = number;
    // Names may share a counter: a raise that lowers it would grant a token twice.
    for _ in 0..3 {
        let next = cx.claim(&other);
        before = cx.expect_granted(&store, &next).await?.token()?.number();
        cx.release_held(&store, &next).await?;
    }
    ensure!(raise(&store, &claim, number).await? == RaiseOutcome::Raised, "it was not raised to the token that it has");
    let later = cx.expect_granted(&store, &cx.claim(&other)).await?.token()?.number();
    ensure!(later > before, "after a raise to {number}, another name is given {later} after {before}");
    Ok(())
}

async fn below_the_token_of_the_lease_is_refused(cx: Context) -> CaseResult {
    let (store, claim) = (cx.open().await?, cx.claim(&name("job")));
    let number = cx.expect_granted(&store, &claim).await?.token()?.number() + 10;
    raise(&store, &claim, number).await?;
    ensure!(raise(&store, &claim, number - 1).await? == RaiseOutcome::Refused, "a token was lowered");
    ensure!(shown_token(&cx, &store, &claim).await? == number, "a refused raise changed the token");
    Ok(())
}

async fn by_a_stranger_is_refused_and_changes_nothing(cx: Context) -> CaseResult {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let holder = cx.claim(&job);
    let number = cx.expect_granted(&a, &holder).await?.token()?.number();
    for stranger in [cx.claim(&job), cx.claim(&name("free"))] {
        let answer = raise(&b, &stranger, number + 100).await?;
        ensure!(answer == RaiseOutcome::Refused, "a stranger's raise was acknowledged");
    }
    ensure!(shown_token(&cx, &a, &holder).await? == number, "a stranger's raise changed the token of the holder");
    cx.expect_free(&a, &name("free")).await?;
    cx.release_held(&a, &holder).await
}

async fn of_a_lease_that_was_given_back_or_broken_is_refused(cx: Context) -> CaseResult {
    let (store, job) = (cx.open().await?, name("job"));
    let given_back = cx.claim(&job);
    let number = cx.expect_granted(&store, &given_back).await?.token()?.number();
    cx.release_held(&store, &given_back).await?;
    ensure!(raise(&store, &given_back, number + 50).await? == RaiseOutcome::Refused, "what was given back was raised");
    for how in [BreakMode::Now, BreakMode::Revoke] {
        let broken = cx.claim(&job);
        let number = cx.expect_granted(&store, &broken).await?.token()?.number();
        let seen = cx.expect_holder(&store, &broken).await?;
        store.break_lock(&job, &seen, how).await?.ok_or("the holder that was seen was not evicted")?;
        ensure!(raise(&store, &broken, number + 50).await? == RaiseOutcome::Refused, "after {how:?} it was raised");
    }
    Ok(())
}

async fn beyond_what_a_token_can_follow_is_no_success(cx: Context) -> CaseResult {
    let (store, claim) = (cx.open().await?, cx.claim(&name("job")));
    let number = cx.expect_granted(&store, &claim).await?.token()?.number();
    let raiser = store.token_raiser().ok_or("one handle raises tokens, and another does not")?;
    match raiser.raise(&claim, u64::MAX).await {
        Ok(answer) => ensure!(answer == RaiseOutcome::Refused, "the greatest number was acknowledged"),
        Err(error) => ensure!(error.kind() == ErrorKind::Protocol, "it failed otherwise: {error:?}"),
    }
    ensure!(shown_token(&cx, &store, &claim).await? == number, "a raise that failed changed the token");
    cx.release_held(&store, &claim).await?;
    cx.expect_free(&store, &name("job")).await
}

async fn moves_no_end_of_a_lease(cx: Context) -> CaseResult {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let claim = cx.short_claim(&job);
    let granted = cx.expect_granted(&a, &claim).await?;
    let number = granted.token()?.number();
    let until = granted.sent.after(granted.lease.ttl).after(cx.expiry_timeout());
    let mut raised = 0;
    while !b.inspect(&job, Space::Locks).await?.is_empty() {
        raised += 1;
        raise(&a, &claim, number + raised).await?;
        ensure!(cx.clock.now() < until, "raises kept the lease");
        tokio::time::sleep(cx.ttl / 10).await;
    }
    ensure!(
        raise(&a, &claim, number + raised + 1).await? == RaiseOutcome::Refused,
        "a lease that has ended was raised"
    );
    cx.expect_free(&b, &job).await
}
