//! Servers that pause, end, or whose replies are lost.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use lock_core::{Attempt, Claim, ErrorKind, Fence, LockStore, Locks, ReleaseOutcome, Space};
use lock_testkit::{Proxy, RedisServer, until};

use crate::fixture::{LONG, SYNCED, grant, is_held, locks, name, open, request, server, try_open};

/// Less than the client crate takes for a server that is down, and than 64 time-outs in sequence;
/// far more than the time-outs that are set here.
const SOON: Duration = Duration::from_secs(8);
const BRIEF: &str = "connect_timeout=300ms&response_timeout=300ms";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_server_is_an_error_within_the_time_outs() {
    let mut server = server();
    let url = format!("{}?{BRIEF}", server.url());
    let store = open(&url).await;
    server.kill();
    let claim = Claim::new(name("job"), LONG);
    let mut soonest = Duration::MAX;
    for _ in 0..3 {
        let started = Instant::now();
        let error = store.request(&claim).await.err().unwrap();
        assert!(error.is_retryable(), "{error}");
        soonest = soonest.min(started.elapsed());
    }
    assert!(soonest < SOON, "it took {soonest:?}");
    let error = try_open(&url).await.err().unwrap();
    assert!(error.is_retryable() && !error.may_have_taken_effect(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_find_the_server_dead_do_not_wait_for_each_other() {
    let server = server();
    let store = open(&format!("{}?{BRIEF}", server.url())).await;
    server.pause();
    let started = Instant::now();
    let asked: Vec<_> = (0..64)
        .map(|number| {
            let (store, claim) = (store.clone(), Claim::new(name(&format!("job {number}")), LONG));
            tokio::spawn(async move { store.request(&claim).await.err().unwrap().kind() })
        })
        .collect();
    for asked in asked {
        assert_eq!(asked.await.unwrap(), ErrorKind::TimedOut);
    }
    assert!(started.elapsed() < SOON, "it took {:?}", started.elapsed());
    server.resume();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_a_paused_server_applies_later_leaves_no_lock() {
    let server = server();
    let store = open(&format!("{}?{BRIEF}", server.url())).await;
    let locks = Locks::builder_of(store.clone()).ttl(LONG).build();
    server.pause();
    let error = locks.lock("job").try_acquire().await.err().unwrap();
    assert!(error.kind() == ErrorKind::TimedOut && error.may_have_taken_effect(), "{error:?}");
    server.resume();
    let other = open(&server.url()).await;
    until("its mark", || server.cli(&["--scan", "--pattern", "*withdrawn*"]).contains("withdrawn").then_some(()));
    assert!(!is_held(&other, "job").await, "it was applied, and withdrawn");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_request_of_a_withdrawn_claim_meets_its_mark() {
    let server = server();
    let proxy = Proxy::to(server.port());
    let url = format!("redis://127.0.0.1:{}?{BRIEF}", proxy.port());
    let locks = Locks::builder_of(open(&url).await).ttl(LONG).build();
    // The request stays in flight while its withdrawal takes another connection.
    proxy.hold();
    let error = locks.lock("job").try_acquire().await.err().unwrap();
    assert!(error.may_have_taken_effect(), "{error:?}");
    proxy.cut();
    proxy.forward();
    let other = open(&server.url()).await;
    until("its mark", || server.cli(&["--scan", "--pattern", "*withdrawn*"]).contains("withdrawn").then_some(()));
    let key = server.cli(&["--scan", "--pattern", "*withdrawn*"]);
    let holder = key.rsplit(':').next().unwrap().to_owned() + ".";
    let counter = key.replace("withdrawn:", "token:");
    // The late request, sent by hand.
    let script = "local lock, counter, tombstone, holder, ttl, ending, known, new = ".to_owned()
        + "KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]\n"
        + include_str!("../../src/scripts/request.lua")
        + include_str!("../../src/scripts/read.lua")
        + include_str!("../../src/scripts/compare.lua")
        + include_str!("../../src/scripts/next_token.lua")
        + include_str!("../../src/scripts/request_slow.lua");
    let late = server.cli(&["EVAL", &script, "3", "lock:job", &counter, &key, &holder, "600000", "", "0", "1"]);
    assert_eq!(late, "withdrawn");
    assert!(!is_held(&other, "job").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_reply_is_unknown_and_the_same_holder_asks_again() {
    let server = server();
    let proxy = Proxy::to(server.port());
    let store = open(&format!("redis://127.0.0.1:{}?response_timeout=3s", proxy.port())).await;
    let (first, claim) = (Claim::new(name("first"), LONG), Claim::new(name("job"), LONG));
    grant(&store, &first).await;
    proxy.lose_replies();
    let error = store.request(&claim).await.err().unwrap();
    assert!(error.may_have_taken_effect(), "{error:?}");
    let value = until("its arrival", || Some(server.cli(&["GET", "lock:job"])).filter(|value| !value.is_empty()));
    proxy.forward();
    let token = grant(&store, &claim).await;
    assert!(value.contains(&format!(".{}", token.number())), "{value}, then {token}");
    assert_eq!(store.release(&claim, Duration::ZERO).await.unwrap(), ReleaseOutcome::Held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_back_is_used_again() {
    let mut server = server();
    let store = open(&server.url()).await;
    let (held, next) = (Claim::new(name("held"), LONG), Claim::new(name("job"), LONG));
    let token = grant(&store, &held).await;
    server.restart();
    assert!(is_held(&store, "held").await, "it was kept");
    assert!(grant(&store, &next).await > token);
    server.cli(&["SCRIPT", "FLUSH"]);
    assert!(matches!(request(&store, &next).await, Attempt::Granted(_)), "scripts are loaded again");
    assert_eq!(store.release(&next, Duration::ZERO).await.unwrap(), ReleaseOutcome::Held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_is_cut_off_is_told_in_time() {
    let server = server();
    let proxy = Proxy::to(server.port());
    let near = open(&format!("redis://127.0.0.1:{}?{BRIEF}", proxy.port())).await;
    let far = open(&server.url()).await;
    let guard = locks(&near).lock("job").ttl(Duration::from_secs(1)).acquire().await.unwrap();
    proxy.hold();
    let next = locks(&far).lock("job").acquire().await.unwrap();
    assert!(!guard.is_valid(), "it was told before another was let in");
    assert!(next.token_if_any() > guard.token_if_any());
    assert!(guard.release().await.is_err());
    proxy.forward();
    assert!(next.is_valid() && is_held(&far, "job").await);
}

const DAY: i64 = 24 * 3600;

/// Scenario: the server's clock is set back. A lease ends late, and no other holder is admitted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_back_ends_leases_late() {
    let server = RedisServer::start_with_clock(&SYNCED);
    let store = open(&server.url()).await;
    let first = Claim::new(name("job"), LONG);
    let token = grant(&store, &first).await;
    server.set_clock(-DAY);
    let left = store.inspect(first.name(), Space::Locks).await.unwrap().pop().unwrap().remaining.unwrap();
    assert!(left > LONG, "it ends a day later, in {left:?}");
    assert!(is_held(&store, "job").await);
    server.set_clock(2 * LONG.as_secs() as i64);
    assert!(grant(&store, &Claim::new(name("job"), LONG)).await > token);
}

/// Scenario: the server's clock is set forward. Two hold the lock, and the fence refuses the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_forward_lets_two_in_and_the_fence_refuses_the_first() {
    let server = RedisServer::start_with_clock(&SYNCED);
    let store = open(&server.url()).await;
    let first = locks(&store).lock("job").fixed().acquire().await.unwrap();
    server.set_clock(DAY);
    let second = locks(&store).lock("job").acquire().await.unwrap();
    assert!(first.is_valid(), "two hold it");
    let resource = Fence::in_memory();
    drop(resource.enter(&name("job"), second.token_if_any().unwrap()).await.unwrap());
    let refused = resource.enter(&name("job"), first.token_if_any().unwrap()).await.err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Fenced);
}

/// A plain connection, opened before the server has none left.
struct Operator(TcpStream);

impl Operator {
    fn of(server: &RedisServer) -> Operator {
        Operator(TcpStream::connect(("127.0.0.1", server.port())).unwrap())
    }

    fn run(&mut self, command: &str) -> String {
        self.0.write_all(format!("{command}\r\n").as_bytes()).unwrap();
        let mut answer = [0; 16 << 10];
        let size = self.0.read(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[..size]).trim().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_has_no_connection_left_is_asked_again() {
    let server = server();
    let locks = locks(&open(&server.url()).await);
    let mut operator = Operator::of(&server);
    assert_eq!(operator.run("CONFIG SET maxclients 1"), "+OK");
    assert!(operator.run("CLIENT KILL TYPE normal").starts_with(':'), "the store has none either");
    for database in ["", "/1"] {
        let error = try_open(&format!("{}{database}", server.url())).await.err().unwrap();
        assert!(error.kind() == ErrorKind::Unavailable && !error.may_have_taken_effect(), "{error:?}");
    }
    let waiter = tokio::spawn(locks.lock("job").wait(LONG).acquire());
    until("a refusal", || {
        let stats = operator.run("INFO stats");
        let refused: u32 = stats.lines().find_map(|line| line.strip_prefix("rejected_connections:"))?.parse().ok()?;
        (refused > 3).then_some(())
    });
    assert!(!waiter.is_finished(), "it goes on asking");
    assert_eq!(operator.run("CONFIG SET maxclients 1000"), "+OK");
    let served = tokio::time::timeout(lock_testkit::WAIT_TIMEOUT, waiter).await.expect("it is asked again");
    served.unwrap().unwrap().release().await.unwrap();
}
