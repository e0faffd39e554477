//! Requests and releases that come at the same time.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::join_all;
use lock_core::{Attempt, Claim, ErrorKind, LockStore, Released, Result};
use lock_redis::RedisStore;
use lock_testkit::{BOUND, RedisServer};

use crate::bed::{LONG, grant, name, open, server};

/// How many scripts the server was asked for.
fn calls(server: &RedisServer) -> u64 {
    let stats = server.cli(&["INFO", "commandstats"]);
    let evalsha = stats.lines().find(|line| line.starts_with("cmdstat_evalsha:")).unwrap();
    evalsha.split(['=', ',']).nth(1).unwrap().parse().unwrap()
}

fn claims(names: impl IntoIterator<Item = String>) -> Vec<Claim> {
    names.into_iter().map(|text| Claim::new(name(&text), LONG)).collect()
}

fn numbered(count: usize) -> Vec<Claim> {
    claims((0..count).map(|number| format!("job {number}")))
}

/// All of these while the server stands still, so that they come at the same time.
async fn at_once<T>(server: &RedisServer, all: impl IntoIterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut all = Box::pin(join_all(all));
    server.pause();
    tokio::select! {
        biased;
        _ = &mut all => panic!("a server that stands still answers nobody"),
        () = tokio::task::yield_now() => {}
    }
    server.resume();
    all.await
}

async fn request(store: &Arc<RedisStore>, claims: &[Claim], server: &RedisServer) -> Vec<Result<Attempt>> {
    at_once(server, claims.iter().map(|claim| store.request(claim))).await
}

fn token(attempt: &Result<Attempt>) -> u64 {
    match attempt {
        Ok(Attempt::Granted(lease)) => lease.token.as_ref().unwrap().number(),
        other => panic!("it must be free: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_cost_a_few_calls_and_each_has_its_own_answer() {
    let server = server();
    let store = open(&server.url()).await;
    let held = Claim::new(name("held"), LONG);
    grant(&store, &held).await;
    let mut all = numbered(100);
    all.push(Claim::new(name("held"), LONG));
    let before = calls(&server);
    let answers = request(&store, &all, &server).await;
    assert!(calls(&server) - before < 10, "{} calls", calls(&server) - before);
    assert!(matches!(answers.last(), Some(Ok(Attempt::Held(_)))), "{:?}", answers.last());
    let tokens: BTreeSet<_> = answers[..100].iter().map(token).collect();
    assert_eq!(tokens.len(), 100, "each has a token of its own");
    // Asked again, each has the same.
    let again: BTreeSet<_> = request(&store, &all[..100], &server).await.iter().map(token).collect();
    assert_eq!(again, tokens);
    let before = calls(&server);
    let released = at_once(&server, all.iter().map(|claim| store.release(claim))).await;
    assert!(calls(&server) - before < 10, "{} calls", calls(&server) - before);
    let held_until_now = |released: &&Result<Released>| matches!(released, Ok(Released::Held));
    assert_eq!(released.iter().filter(held_until_now).count(), 100, "{released:?}");
    assert!(matches!(released.last(), Some(Ok(Released::NotHeld))), "{:?}", released.last());
    let next: Vec<_> = request(&store, &numbered(100), &server).await.iter().map(token).collect();
    assert!(next.iter().min() > tokens.iter().max(), "later tokens are greater");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_comes_alone_is_one_call() {
    let server = server();
    let store = open(&server.url()).await;
    let before = calls(&server);
    for claim in numbered(10) {
        grant(&store, &claim).await;
        assert_eq!(store.release(&claim).await.unwrap(), Released::Held);
    }
    // The first found a counter that is new, and asked for the realm.
    assert!(calls(&server) - before <= 10 * 2 + 2, "{} calls", calls(&server) - before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_denied_spoils_no_other() {
    let server = server();
    let words = "ACL SETUSER default resetkeys ~lock:job* ~lock:\u{1f}*";
    assert_eq!(server.cli(&words.split(' ').collect::<Vec<_>>()), "OK");
    let store = open(&server.url()).await;
    let all = claims((0..20).map(|number| if number == 13 { "denied".to_owned() } else { format!("job {number}") }));
    for (claim, answer) in all.iter().zip(request(&store, &all, &server).await) {
        match claim.name().as_str() {
            "denied" => assert_eq!(answer.err().unwrap().kind(), ErrorKind::Denied),
            _ => assert!(token(&answer) > 0),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_goes_away_while_others_are_asked_for_keeps_nobody_waiting() {
    let server = server();
    let store = open(&server.url()).await;
    let all = numbered(40);
    server.pause();
    {
        let mut gone = Box::pin(join_all(all[..20].iter().map(|claim| store.request(claim))));
        tokio::select! {
            biased;
            _ = &mut gone => panic!("a server that stands still answers nobody"),
            () = tokio::task::yield_now() => {}
        }
    }
    let rest = request(&store, &all[20..], &server).await;
    assert!(rest.iter().all(|answer| token(answer) > 0));
    // Those that went away were sent all the same, or not: whoever cut them off gives them back.
    for claim in &all {
        store.release(claim).await.unwrap();
    }
    assert_eq!(store.list(None, 100).await.unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_look_at_its_answer_keeps_nobody_waiting() {
    let server = server();
    let store = open(&server.url()).await;
    let all = numbered(20);
    let mut asleep: Vec<_> = all[..10].iter().map(|claim| Box::pin(store.request(claim))).collect();
    for one in &mut asleep {
        tokio::select! {
            biased;
            _ = one => {}
            () = tokio::task::yield_now() => {}
        }
    }
    let awake = join_all(all[10..].iter().map(|claim| store.request(claim)));
    let answers = tokio::time::timeout(BOUND, awake).await.expect("nobody waits for who is asleep");
    assert!(answers.iter().all(|answer| token(answer) > 0));
    drop(asleep);
}
