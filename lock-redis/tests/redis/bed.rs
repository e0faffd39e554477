//! What the tests begin with.

use std::sync::Arc;
use std::time::Duration;

use lock_core::{Attempt, Claim, FencingToken, LockName, LockStore, Locks, Result};
use lock_redis::{RedisConfig, RedisStore};
use lock_testkit::RedisServer;

/// Far longer than any test: what ends within it did not wait for the end of a lease.
pub(crate) const LONG: Duration = Duration::from_secs(600);

pub(crate) const SYNCED: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

pub(crate) fn name(text: &str) -> LockName {
    LockName::new(text).unwrap()
}

pub(crate) async fn try_open(url: &str) -> Result<Arc<RedisStore>> {
    Ok(Arc::new(RedisStore::connect(RedisConfig::from_url(&url.parse()?)?).await?))
}

pub(crate) async fn open(url: &str) -> Arc<RedisStore> {
    try_open(url).await.unwrap()
}

pub(crate) fn locks(store: &Arc<RedisStore>) -> Locks {
    Locks::builder_of(store.clone()).ttl(LONG).build()
}

pub(crate) fn server() -> RedisServer {
    RedisServer::start(&SYNCED)
}

/// Asks until the store answers: a connection that was lost is noticed by the first who uses it.
pub(crate) async fn ask(store: &RedisStore, claim: &Claim) -> Attempt {
    let started = std::time::Instant::now();
    loop {
        match store.request(claim).await {
            Ok(attempt) => return attempt,
            Err(error) => assert!(error.is_retryable() && started.elapsed() < lock_testkit::BOUND, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn grant(store: &RedisStore, claim: &Claim) -> FencingToken {
    match ask(store, claim).await {
        Attempt::Granted(lease) => lease.token.unwrap(),
        Attempt::Held(by) => panic!("it must be free, and is held by {by:?}"),
    }
}

pub(crate) async fn is_held(store: &RedisStore, text: &str) -> bool {
    matches!(ask(store, &Claim::new(name(text), LONG)).await, Attempt::Held(_))
}
