//! Requests and releases that are sent in one batch, for the tests of batching.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join, join_all};
use lock_core::{Attempt, Claim, HeldBy, LockStore, ReleaseOutcome, Result};
use lock_redis::RedisStore;
use lock_testkit::RedisServer;

use crate::fixture::{LONG, calls, name};

pub(crate) fn claims(names: impl IntoIterator<Item = String>) -> Vec<Claim> {
    names.into_iter().map(|text| Claim::new(name(&text), LONG)).collect()
}

pub(crate) fn numbered(count: usize) -> Vec<Claim> {
    claims((0..count).map(|number| format!("job {number}")))
}

/// Runs `all` while the server is paused, so that its calls come at the same time.
pub(crate) async fn at_once<T>(server: &RedisServer, all: impl Future<Output = T>) -> T {
    let mut all = Box::pin(all);
    server.pause();
    tokio::select! {
        biased;
        _ = &mut all => panic!("a server that stands still answers nobody"),
        () = tokio::task::yield_now() => {}
    }
    server.resume();
    all.await
}

pub(crate) async fn request(store: &Arc<RedisStore>, claims: &[Claim], server: &RedisServer) -> Vec<Result<Attempt>> {
    at_once(server, join_all(claims.iter().map(|claim| store.request(claim)))).await
}

/// The answers to releases and requests of one batch, behind two calls in flight that change
/// nothing.
pub(crate) async fn batch(
    server: &RedisServer,
    store: &Arc<RedisStore>,
    released: &[Claim],
    asked: &[Claim],
) -> (Vec<Result<ReleaseOutcome>>, Vec<Result<Attempt>>) {
    let ahead = claims(["ahead".to_owned(), "also ahead".to_owned()]);
    let releases = ahead.iter().chain(released).map(|claim| store.release(claim, Duration::ZERO));
    let requests = asked.iter().map(|claim| store.request(claim));
    let before = calls(server, "evalsha");
    let (mut releases, requests) = at_once(server, join(join_all(releases), join_all(requests))).await;
    assert!(calls(server, "evalsha") > before + 2, "two, and those that waited for them");
    (releases.split_off(ahead.len()), requests)
}

pub(crate) async fn request_together(
    server: &RedisServer,
    store: &Arc<RedisStore>,
    asked: &[Claim],
) -> Vec<Result<Attempt>> {
    batch(server, store, &[], asked).await.1
}

pub(crate) async fn release_together(
    server: &RedisServer,
    store: &Arc<RedisStore>,
    released: &[Claim],
) -> Vec<Result<ReleaseOutcome>> {
    batch(server, store, released, &[]).await.0
}

pub(crate) fn counter(server: &RedisServer) -> String {
    server.cli(&["--scan", "--pattern", "*token*"])
}

pub(crate) fn set_counter(server: &RedisServer, number: u64) {
    assert_eq!(server.cli(&["SET", &counter(server), &number.to_string()]), "OK");
}

pub(crate) fn held_by(attempt: &Result<Attempt>) -> &HeldBy {
    match attempt {
        Ok(Attempt::Held(waiting)) => &waiting.by,
        other => panic!("it must be held: {other:?}"),
    }
}

pub(crate) fn set_rights(server: &RedisServer, rules: &[&str]) {
    assert_eq!(server.cli(&[&["ACL", "SETUSER", "default"], rules].concat()), "OK");
}

pub(crate) fn token(attempt: &Result<Attempt>) -> u64 {
    match attempt {
        Ok(Attempt::Granted(lease)) => lease.token.as_ref().unwrap().number(),
        other => panic!("it must be free: {other:?}"),
    }
}
