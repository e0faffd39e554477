//! A quorum of real servers that are down when it is formed or opened, or have lost their data.

use std::time::{Duration, Instant};

use lock_core::{Clock, ErrorKind, FencingToken, Locks, QuorumDriver, Registry, Result};
use lock_redis::RedisDriver;
use lock_testkit::{RedisServer, WAIT_TIMEOUT, redlock_url};

use crate::fixture::server;

const LONG: Duration = Duration::from_secs(50);

async fn connect(url: &str) -> Result<Locks> {
    let known = Registry::new().with(RedisDriver).with(QuorumDriver::redlock());
    let store = known.open(&format!("{url}?member_timeout=4s").parse()?, &Clock::system()).await?;
    Ok(Locks::builder_of(store).ttl(LONG).call_timeout(WAIT_TIMEOUT).build())
}

/// Connects, and retries on a busy machine.
async fn open(url: &str) -> Locks {
    let started = Instant::now();
    loop {
        match connect(url).await {
            Ok(locks) => return locks,
            Err(error) => assert!(error.is_retryable() && started.elapsed() < WAIT_TIMEOUT, "{error}"),
        }
    }
}

/// The token of a lock that is acquired and released.
async fn next_token(locks: &Locks) -> FencingToken {
    let guard = locks.lock("job").wait(WAIT_TIMEOUT).acquire().await.unwrap();
    let token = guard.token_if_any().unwrap().clone();
    guard.release().await.unwrap();
    locks.close().await;
    token
}

fn five() -> Vec<RedisServer> {
    (0..5).map(|_| server()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_servers_form_a_quorum_although_two_of_five_are_down_and_those_join_when_they_are_up() {
    let mut servers = five();
    let url = redlock_url(&servers);
    servers[0].kill();
    servers[1].kill();
    let first = next_token(&open(&url).await).await;
    servers[0].restart();
    servers[1].restart();
    let second = next_token(&open(&url).await).await;
    assert!(second > first, "{second} after {first}");
    servers[3].kill();
    servers[4].kill();
    let third = next_token(&open(&url).await).await;
    assert!(third > second, "{third} after {second}");
    // Three down are too many, and each is named.
    servers[2].kill();
    let error = connect(&url).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let text = error.to_string();
    assert!(text.starts_with("2 of 5 members answered, and 3 must: member 3 (redis://127.0.0.1:"), "{text}");
    assert!([2, 3, 4].iter().all(|at| text.contains(&servers[*at].port().to_string())), "{text}");
    assert!([0, 1].iter().all(|at| !text.contains(&servers[*at].port().to_string())), "{text}");
    assert!(!text.contains('\n'), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_lost_its_data_has_no_vote_until_a_new_realm_is_begun() {
    let mut servers: Vec<_> = (0..3).map(|_| server()).collect();
    let url = redlock_url(&servers);
    let first = next_token(&open(&url).await).await;
    servers[0].cli(&["FLUSHALL"]);
    let second = next_token(&open(&url).await).await;
    assert!(second > first, "{second} after {first}");
    servers[1].kill();
    let locks = open(&url).await;
    let error = locks.lock("job").try_acquire().await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("member 1 (redis://"), "{error}");
    assert!(error.to_string().contains("has other data than those that have a place in it"), "{error}");
    let realm = locks.new_realm().await.unwrap();
    let third = next_token(&locks).await;
    assert!(*third.realm() == realm && third.partial_cmp(&second).is_none(), "{third} after {second}");
    // The member that was down when the realm began joins it.
    servers[1].restart();
    let fourth = next_token(&open(&url).await).await;
    assert!(fourth > third, "{fourth} after {third}");
    servers[2].kill();
    let fifth = next_token(&open(&url).await).await;
    assert!(fifth > fourth, "{fifth} after {fourth}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_keep_nothing_go_on_in_a_new_realm_when_they_were_restarted() {
    let mut servers: Vec<_> = (0..3).map(|_| RedisServer::start(&[])).collect();
    let url = format!("{}?longest_ttl=3s&member_timeout=4s", redlock_url(&servers));
    let open = async || {
        let known = Registry::new().with(RedisDriver).with(QuorumDriver::redlock());
        let started = Instant::now();
        loop {
            match known.open(&url.parse().unwrap(), &Clock::system()).await {
                Ok(store) => {
                    return Locks::builder_of(store).ttl(Duration::from_secs(2)).call_timeout(WAIT_TIMEOUT).build();
                }
                Err(error) => assert!(error.is_retryable() && started.elapsed() < WAIT_TIMEOUT, "{error}"),
            }
        }
    };
    let running = open().await;
    running.lock("job").fixed().wait(WAIT_TIMEOUT).acquire().await.unwrap().release().await.unwrap();
    let realm = running.realm();
    for at in [0, 1, 2] {
        servers[at].restart();
        running.lock("job").fixed().wait(WAIT_TIMEOUT).acquire().await.unwrap().release().await.unwrap();
    }
    let started = Instant::now();
    while running.realm() == realm {
        assert!(started.elapsed() < WAIT_TIMEOUT, "no server has the data any more, and the realm stays");
        drop(running.lock("job").fixed().try_acquire().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_ne!(open().await.realm(), realm);
}
