//! Tokens of batched requests.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use lock_core::{Attempt, Claim, LockStore};

use crate::batch::{at_once, counter, numbered, release_together, request_together, set_counter, token};
use crate::fixture::{LONG, grant, name, open, server};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_rise_and_none_is_given_twice_where_a_scripts_numbers_end() {
    let server = server();
    let store = open(&server.url()).await;
    grant(&store, &Claim::new(name("first"), LONG)).await;
    const EXACT: u64 = 1 << 53;
    for before in [EXACT - 30, EXACT - 5, EXACT + 20, EXACT + 99] {
        set_counter(&server, before);
        let all = numbered(10);
        let tokens: Vec<_> = request_together(&server, &store, &all).await.iter().map(token).collect();
        assert_eq!(tokens, (before + 1..=before + 10).collect::<Vec<_>>());
        release_together(&server, &store, &all).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_tokens_that_there_are_are_given_once() {
    let server = server();
    let store = open(&server.url()).await;
    grant(&store, &Claim::new(name("first"), LONG)).await;
    const LAST: u64 = i64::MAX as u64;
    set_counter(&server, LAST - 2);
    let answers = request_together(&server, &store, &numbered(4)).await;
    assert_eq!(answers[..2].iter().map(token).collect::<Vec<_>>(), [LAST - 1, LAST]);
    for answer in &answers[2..] {
        assert!(answer.as_ref().is_err_and(|error| !error.may_have_taken_effect()), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_counter_that_fell_back_is_raised_above_what_was_seen() {
    let server = server();
    let store = open(&server.url()).await;
    grant(&store, &Claim::new(name("first"), LONG)).await;
    set_counter(&server, 99);
    assert_eq!(grant(&store, &Claim::new(name("second"), LONG)).await.number(), 100);
    for fallen_by in [90, 2] {
        let known: u64 = server.cli(&["GET", &counter(&server)]).parse().unwrap();
        set_counter(&server, known - fallen_by);
        let all = numbered(5);
        let tokens: Vec<_> = request_together(&server, &store, &all).await.iter().map(token).collect();
        assert_eq!(tokens, (known + 1..=known + 5).collect::<Vec<_>>(), "it fell by {fallen_by}");
        release_together(&server, &store, &all).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_counter_that_is_new_begins_with_many_at_once() {
    let server = server();
    let store = open(&server.url()).await;
    let answers = request_together(&server, &store, &numbered(10)).await;
    let tokens: BTreeSet<_> = answers.iter().map(token).collect();
    assert_eq!(tokens, (1..=10).collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_learn_of_a_new_realm_at_once() {
    let server = server();
    let (store, other) = (open(&server.url()).await, open(&server.url()).await);
    let before = grant(&store, &Claim::new(name("first"), LONG)).await;
    let realm = other.new_realm().await.unwrap();
    for answer in request_together(&server, &store, &numbered(5)).await {
        assert!(token(&answer) > before.number());
        let Ok(Attempt::Granted(lease)) = answer else { unreachable!() };
        assert_eq!(lease.token.unwrap().realm(), &realm);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_stores_that_ask_for_many_at_once_share_no_token() {
    let server = server();
    let (a, b) = (open(&server.url()).await, open(&server.url()).await);
    grant(&a, &Claim::new(name("first"), LONG)).await;
    let all = numbered(100);
    let both = all.iter().enumerate().map(|(at, claim)| if at % 2 == 0 { a.request(claim) } else { b.request(claim) });
    let tokens: BTreeSet<_> = at_once(&server, join_all(both)).await.iter().map(token).collect();
    assert_eq!(tokens.len(), 100);
}
