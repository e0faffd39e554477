//! A quorum of real servers with partitions, loss of data, fail-over and clock steps.

use std::sync::Arc;
use std::time::Duration;

use lock_core::{
    Attempt, Claim, Driver, ErrorKind, Fault, Fence, FencingToken, Guarantees, LockStore, Locks, Quorum, QuorumDriver,
};
use lock_testkit::{Proxy, RedisServer, WAIT_TIMEOUT, until};

use crate::fixture::{LONG, SYNCED, name, open, server};

const DAY: i64 = 24 * 3600;
/// Time limit of a member on a busy machine.
const MEMBER_TIMEOUT: Duration = Duration::from_secs(4);

/// Members, each with a proxy that one holder uses.
struct Members {
    servers: Vec<RedisServer>,
    proxies: Vec<Proxy>,
}

impl Members {
    fn of(servers: Vec<RedisServer>) -> Members {
        let proxies = servers.iter().map(|server| Proxy::to(server.port())).collect();
        Members { servers, proxies }
    }

    /// A quorum that reaches its members directly.
    async fn direct(&self) -> Quorum {
        quorum(self.servers.iter().map(RedisServer::url)).await
    }

    /// A quorum that reaches its members through the proxies.
    async fn proxied(&self) -> Quorum {
        quorum(self.proxies.iter().map(|proxy| format!("redis://127.0.0.1:{}", proxy.port()))).await
    }

    /// Number of members at which the lock is held.
    fn holding(&self) -> usize {
        self.servers.iter().filter(|server| server.cli(&["EXISTS", "lock:job"]) == "1").count()
    }
}

async fn quorum(urls: impl Iterator<Item = String>) -> Quorum {
    let mut stores: Vec<Arc<dyn LockStore>> = Vec::new();
    for url in urls {
        stores.push(open(&format!("{url}?response_timeout=5s&connect_timeout=2s")).await);
    }
    Quorum::open(stores).await.unwrap().member_timeout(MEMBER_TIMEOUT).longest_ttl(LONG)
}

fn locks(quorum: Quorum, ttl: Duration) -> Locks {
    Locks::builder_of(Arc::new(quorum)).ttl(ttl).build()
}

/// Checks that a fence that has seen the new token refuses the old one.
async fn is_fenced(new: &FencingToken, old: &FencingToken) {
    let resource = Fence::in_memory();
    drop(resource.enter(&name("job"), new).await.unwrap());
    assert_eq!(resource.enter(&name("job"), old).await.err().unwrap().kind(), ErrorKind::Fenced);
}

fn five() -> Vec<RedisServer> {
    (0..5).map(|_| server()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quorum_of_servers_that_sync_every_write_is_for_correctness_and_no_other() {
    let members = Members::of((0..3).map(|_| server()).collect());
    let promised = members.direct().await.guarantees();
    assert_eq!(promised.shortfalls(&Guarantees::FOR_CORRECTNESS), []);
    assert_eq!(promised, QuorumDriver::redlock().kind().at_best, "no more is said before it is opened, and no less");
    let weak = RedisServer::start(&[]);
    let mixed = quorum(members.servers[..2].iter().chain([&weak]).map(RedisServer::url)).await;
    assert!(!mixed.guarantees().shortfalls(&Guarantees::FOR_CORRECTNESS).is_empty());
}

/// Scenario: a majority does not answer. What was granted is given back, also where the answer
/// never came.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_everything_is_given_back() {
    let members = Members::of(five());
    let impatient = members.direct().await.member_timeout(Duration::from_millis(300));
    let locks = locks(impatient, LONG);
    members.servers[2..].iter().for_each(RedisServer::pause);
    let error = locks.lock("job").try_acquire().await.err().unwrap();
    assert!(error.is_retryable(), "{error:?}");
    members.servers[2..].iter().for_each(RedisServer::resume);
    until("its end everywhere", || (members.holding() == 0).then_some(()));
    let other = self::locks(members.direct().await, LONG);
    other.lock("job").wait(WAIT_TIMEOUT).acquire().await.unwrap().release().await.unwrap();
    until("its end everywhere", || (members.holding() == 0).then_some(()));
}

/// Scenario: votes that are split. Nobody holds, and one of them is granted in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_ask_at_once_one_after_the_other_holds() {
    let members = Members::of(five());
    let mut asking = Vec::new();
    for _ in 0..4 {
        let lock = locks(members.direct().await, LONG).lock("job").wait(WAIT_TIMEOUT);
        asking.push(tokio::spawn(async move {
            let guard = lock.acquire().await.unwrap();
            let token = guard.token_if_any().unwrap().number();
            guard.release().await.unwrap();
            token
        }));
    }
    let mut tokens = Vec::new();
    for asked in asking {
        tokens.push(asked.await.unwrap());
    }
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), 4, "each has another token");
}

/// Scenario: the clock of one server of five is set forward while two others are down. Two hold the
/// lock, and the fence refuses the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_clock_that_is_set_forward_can_let_two_in_and_the_fence_refuses_the_first() {
    let mut servers: Vec<_> = (0..4).map(|_| server()).collect();
    servers.insert(0, RedisServer::start_with_clock(&SYNCED));
    let members = Members::of(servers);
    let (near, far) = (members.proxied().await, members.direct().await);
    members.proxies[3..].iter().for_each(Proxy::cut);
    let first = locks(near, LONG).lock("job").wait(WAIT_TIMEOUT).acquire().await.unwrap();
    assert_eq!(members.holding(), 3);
    assert!(locks(far, LONG).lock("job").try_acquire().await.unwrap().is_none(), "a majority holds it");
    members.servers[0].set_clock(DAY);
    let second = locks(members.direct().await, LONG).lock("job").wait(WAIT_TIMEOUT).acquire().await.unwrap();
    assert!(first.is_valid(), "two hold it");
    is_fenced(second.token_if_any().unwrap(), first.token_if_any().unwrap()).await;
}

/// Scenario: the clock of one server of five is set back. Its lease ends late, which a majority
/// does not wait for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_clock_that_is_set_back_makes_nobody_wait() {
    let mut servers: Vec<_> = (0..4).map(|_| server()).collect();
    servers.insert(0, RedisServer::start_with_clock(&SYNCED));
    let members = Members::of(servers);
    // Nobody gives it back.
    let first = Claim::new(name("job"), Duration::from_secs(2));
    let Attempt::Granted(lease) = members.direct().await.request(&first).await.unwrap() else {
        panic!("it must be free");
    };
    members.servers[0].set_clock(-DAY);
    let second = locks(members.direct().await, LONG).lock("job").wait(WAIT_TIMEOUT).acquire().await.unwrap();
    assert!(second.token_if_any() > lease.token.as_ref());
}

/// Scenario: a server that keeps nothing is killed and restarted. It has no vote until all that it
/// forgot has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_forgot_has_no_vote_until_what_it_forgot_has_ended() {
    const TTL: Duration = Duration::from_secs(4);
    let mut members = Members::of((0..3).map(|_| RedisServer::start(&[])).collect());
    let (near, far) = (members.proxied().await.longest_ttl(TTL), members.direct().await.longest_ttl(TTL));
    let lock = locks(near, TTL).lock("job").fixed().wait(WAIT_TIMEOUT);
    members.proxies[2].cut();
    // New servers have no vote either.
    let first = lock.acquire().await.unwrap();
    members.servers[1].restart();
    assert_eq!(members.servers[1].cli(&["EXISTS", "lock:job"]), "0", "it forgot");
    let others = locks(far, TTL);
    let second = others.lock("job").wait(WAIT_TIMEOUT).acquire().await.unwrap();
    assert!(!first.is_valid(), "two held it");
    assert!(second.is_valid());
}

/// Scenario: a member fails over to a replica that lags. Two hold the lock, with tokens that no
/// fence can tell apart; that is why a quorum of members with replicas promises no more than they
/// do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_fails_over_can_let_two_in_and_no_fence_helps() {
    let members = Members::of((0..3).map(|_| server()).collect());
    let to_replica = Proxy::to(members.servers[1].port());
    let replica =
        RedisServer::start(&[&["--replicaof", "127.0.0.1", &to_replica.port().to_string()], &SYNCED[..]].concat());
    replica.wait_until_synced();
    let near = members.proxied().await;
    let survived = near.guarantees().tokens_survive.unwrap();
    assert!(!survived.contains(Fault::FailOver.into()), "{survived:?}");
    // It has arrived whose data this is and who belongs to the quorum, and nothing after that.
    let quorum_at = |server: &RedisServer| server.cli(&["GET", "lock:\u{1f}quorum"]);
    until("the roll at the replica", || (quorum_at(&replica) == quorum_at(&members.servers[1])).then_some(()));
    assert_eq!(replica.cli(&["DBSIZE"]), "2");
    to_replica.cut();
    members.proxies[2].cut();
    let near = locks(near, Duration::from_secs(10));
    for _ in 0..3 {
        near.lock("job").wait(WAIT_TIMEOUT).acquire().await.unwrap().release().await.unwrap();
    }
    let first = near.lock("job").wait(WAIT_TIMEOUT).acquire().await.unwrap();
    members.proxies.iter().for_each(Proxy::cut);
    replica.cli(&["REPLICAOF", "NO", "ONE"]);
    let urls = [members.servers[0].url(), replica.url(), members.servers[2].url()];
    let second = quorum(urls.into_iter()).await;
    let Attempt::Granted(second) = second.request(&Claim::new(name("job"), LONG)).await.unwrap() else {
        panic!("two of three do not know of the first");
    };
    assert!(first.is_valid(), "two hold it");
    let (first_token, second_token) = (first.token_if_any().unwrap(), second.token.unwrap());
    assert!(second_token.number() <= first_token.number(), "{first_token}, then {second_token}");
    tokio::time::timeout(WAIT_TIMEOUT, first.lost()).await.expect("the stale holder is told");
}

/// Scenario: the holder is cut off from all members, and not from the resource.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_is_cut_off_is_told_before_another_is_let_in_and_its_late_writes_are_refused() {
    let members = Members::of(five());
    let (near, far) = (members.proxied().await, members.direct().await);
    let first = locks(near, Duration::from_secs(2)).lock("job").acquire().await.unwrap();
    members.proxies.iter().for_each(Proxy::hold);
    let second = locks(far, LONG).lock("job").wait(WAIT_TIMEOUT).acquire().await.unwrap();
    assert!(!first.is_valid(), "it was told before another was let in");
    is_fenced(second.token_if_any().unwrap(), first.token_if_any().unwrap()).await;
    members.proxies.iter().for_each(Proxy::forward);
    assert!(second.is_valid() && second.renew().await.is_ok());
}
