//! P7: the store keeps its guarantees.

use lock_core::{Expiry, Guarantees, Locks};

use crate::case::cases;
use crate::context::{Context, name};
use crate::ensure::{CaseResult, ensure};
use crate::requirement::Requirement;

cases! { "guarantees";
    [] {
        are_the_same_on_every_handle,
        leases_have_tokens_if_and_only_if_tokens_are_claimed,
        leases_are_on_a_session_if_and_only_if_sessions_end_them,
        a_lock_for_correctness_is_given_only_if_tokens_survive_enough,
    }
    [Requirement::Queue] { a_queueing_claim_takes_a_place_that_newcomers_respect }
    [Requirement::NoQueue] { a_queueing_claim_writes_nothing_where_there_is_no_queue }
}

async fn are_the_same_on_every_handle(cx: Context) -> CaseResult {
    let (a, b) = (cx.open().await?, cx.open().await?);
    let (here, there) = (a.guarantees(), b.guarantees());
    ensure!(here == there, "two handles promise different things: {here:?} and {there:?}");
    cx.expect_granted(&a, &cx.claim(&name("job"))).await?;
    ensure!(a.guarantees() == here, "the guarantees changed with use: {:?}", a.guarantees());
    Ok(())
}

async fn leases_have_tokens_if_and_only_if_tokens_are_claimed(cx: Context) -> CaseResult {
    let store = cx.open().await?;
    for text in ["a", "b"] {
        let lease = cx.expect_granted(&store, &cx.claim(&name(text))).await?.lease;
        ensure!(lease.token.is_some() == cx.has_tokens(), "claimed: {}, given: {:?}", cx.has_tokens(), lease.token);
    }
    Ok(())
}

async fn leases_are_on_a_session_if_and_only_if_sessions_end_them(cx: Context) -> CaseResult {
    let store = cx.open().await?;
    let lease = cx.expect_granted(&store, &cx.claim(&name("job"))).await?.lease;
    match cx.guarantees.expiry {
        Some(Expiry::Ttl(_)) => ensure!(lease.session.is_none(), "a lease with a TTL of its own is on a session"),
        Some(Expiry::Session(_)) => ensure!(lease.session.is_some(), "a lease that a session ends is on none"),
        Some(_) => {}
        None => return Err("the guarantees must say what ends a lease".into()),
    }
    Ok(())
}

async fn a_lock_for_correctness_is_given_only_if_tokens_survive_enough(cx: Context) -> CaseResult {
    let locks = Locks::builder_of(cx.open().await?).ttl(cx.long_ttl()).build();
    let short = !cx.guarantees.shortfalls(&Guarantees::FOR_CORRECTNESS).is_empty();
    match locks.for_correctness() {
        Err(_) => ensure!(short, "a store that promises enough was refused"),
        Ok(fenced) => {
            ensure!(!short, "a store that promises too little was not refused");
            let guard = fenced.lock("job").acquire().await?;
            ensure!(guard.token().realm() == &locks.realm(), "the token is of another realm: {}", guard.token());
            guard.release().await?;
        }
    }
    Ok(())
}

async fn a_queueing_claim_takes_a_place_that_newcomers_respect(cx: Context) -> CaseResult {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let (holder, waiter, newcomer) = (cx.claim(&job), cx.queueing_claim(&job), cx.claim(&job));
    cx.expect_granted(&a, &holder).await?;
    cx.expect_held(&b, &waiter).await?;
    cx.release_held(&a, &holder).await?;
    cx.expect_held(&a, &newcomer).await?;
    cx.acquire_within(&b, &waiter, cx.prompt_timeout()).await?;
    cx.release_held(&b, &waiter).await
}

async fn a_queueing_claim_writes_nothing_where_there_is_no_queue(cx: Context) -> CaseResult {
    let (a, b, job) = (cx.open().await?, cx.open().await?, name("job"));
    let (holder, waiter) = (cx.claim(&job), cx.queueing_claim(&job));
    cx.expect_granted(&a, &holder).await?;
    cx.expect_held(&b, &waiter).await?;
    cx.release_held(&a, &holder).await?;
    cx.expect_free(&a, &job).await
}
