//! Servers that crash or pause, and replies that are lost.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lock_conformance::history::{History, ObservedLease};
use lock_conformance::{Deployment, Factory, Failure, Suite, Verdict, async_trait};
use lock_core::{Attempt, Claim, ErrorKind, Fault, Faults, LockStore, Locks, ReleaseOutcome};
use lock_postgres::PostgresStore;
use lock_testkit::{PostgresServer, Proxy};

use crate::fixture::{LONG, Table, grant, grant_eventually, init, locks, name, open, open_any, try_open};

/// Far longer than the time-outs of these tests.
const MAX_DURATION: Duration = Duration::from_secs(20);
const SHORT_TIMEOUTS: &str = "connect_timeout=500ms&response_timeout=500ms";

/// Servers that a test may crash and pause, one for each deployment at a time.
#[derive(Default)]
struct KillableServers {
    idle: Arc<Mutex<Vec<PostgresServer>>>,
    deployments: AtomicU32,
}

struct KillableServer {
    server: tokio::sync::Mutex<Option<PostgresServer>>,
    url: String,
    idle: Arc<Mutex<Vec<PostgresServer>>>,
}

impl Drop for KillableServer {
    fn drop(&mut self) {
        self.idle.lock().unwrap().extend(self.server.get_mut().take());
    }
}

#[async_trait]
impl Factory for KillableServers {
    async fn deploy(&self) -> Result<Arc<dyn Deployment>, Failure> {
        let idle = self.idle.lock().unwrap().pop();
        let server = idle.unwrap_or_else(|| PostgresServer::start(&[]));
        let number = self.deployments.fetch_add(1, Ordering::Relaxed);
        let url = format!("{}?table=s{number}.lease", server.url());
        init(&url).await?;
        Ok(Arc::new(KillableServer { server: tokio::sync::Mutex::new(Some(server)), url, idle: self.idle.clone() }))
    }

    fn ttl(&self) -> Duration {
        Duration::from_millis(1_500)
    }

    fn faults(&self) -> Faults {
        Faults::of(&[Fault::Crash, Fault::Pause])
    }
}

#[async_trait]
impl Deployment for KillableServer {
    async fn open(&self) -> Result<Arc<dyn LockStore>, Failure> {
        Ok(open_any(&self.url).await?)
    }

    async fn inflict(&self, fault: Fault) -> Result<(), Failure> {
        let mut server = self.server.lock().await;
        let server = server.as_mut().ok_or("it was dropped")?;
        match fault {
            Fault::Crash => server.restart(),
            _ => {
                server.pause();
                tokio::time::sleep(Duration::from_millis(500)).await;
                server.resume();
            }
        }
        Ok(())
    }
}

#[test]
fn what_is_promised_of_a_crash_and_a_pause_is_kept() {
    let servers = Arc::default();
    for (part, least) in [("crash", 2), ("a_pause", 1)] {
        let factory = KillableServers { idle: Arc::clone(&servers), deployments: AtomicU32::new(least as u32 * 100) };
        let report = Suite::new(factory).only(part).threads(2).run().unwrap();
        let passed = report.outcomes().iter().filter(|outcome| matches!(outcome.verdict, Verdict::Passed)).count();
        assert!(report.is_clean() && passed >= least, "{part}: {report}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_server_is_an_error_within_the_time_outs() {
    let mut server = PostgresServer::start(&[]);
    init(&server.url()).await.unwrap();
    let url = format!("{}?{SHORT_TIMEOUTS}", server.url());
    let store = open(&url).await;
    server.kill();
    let claim = Claim::new(name("job"), LONG);
    for _ in 0..3 {
        let started = Instant::now();
        let error = store.request(&claim).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(started.elapsed() < MAX_DURATION, "it took {:?}", started.elapsed());
    }
    let error = try_open(&url).await.err().unwrap();
    assert!(error.kind() == ErrorKind::Unavailable && !error.may_have_taken_effect(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_a_paused_server_applies_later_leaves_no_lock() {
    let server = PostgresServer::start(&[]);
    init(&server.url()).await.unwrap();
    let store = open(&format!("{}?{SHORT_TIMEOUTS}", server.url())).await;
    let locks = Locks::builder_of(store.clone()).ttl(LONG).call_timeout(Duration::from_secs(1)).build();
    // Opens the connection, and inserts the row.
    locks.lock("job").acquire().await.unwrap().release().await.unwrap();
    server.pause();
    let error = locks.lock("job").try_acquire().await.err().unwrap();
    assert!(error.kind() == ErrorKind::TimedOut && error.may_have_taken_effect(), "{error:?}");
    server.resume();
    // The withdrawal is repeated until it meets the late request.
    grant_eventually(&*open(&server.url()).await, &Claim::new(name("job"), LONG)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_reply_is_unknown_and_the_same_holder_asks_again() {
    let table = Table::new().await;
    let proxy = Proxy::to(table.server.port());
    let own = format!(":{}/", table.server.port());
    let url = table.url(&format!("&{SHORT_TIMEOUTS}")).replace(&own, &format!(":{}/", proxy.port()));
    let store = open(&url).await;
    let (first, claim) = (Claim::new(name("first"), LONG), Claim::new(name("job"), LONG));
    grant(&*store, &first).await;
    proxy.lose_replies();
    let error = store.request(&claim).await.err().unwrap();
    assert!(error.may_have_taken_effect(), "{error:?}");
    proxy.forward();
    let token = grant(&*store, &claim).await;
    assert_eq!(grant(&*table.open().await, &claim).await, token, "asked again on another connection");
    assert_eq!(store.release(&claim, Duration::ZERO).await.unwrap(), ReleaseOutcome::Held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_is_cut_off_is_told_in_time() {
    let table = Table::new().await;
    let proxy = Proxy::to(table.server.port());
    let own = format!(":{}/", table.server.port());
    let near = open(&table.url(&format!("&{SHORT_TIMEOUTS}")).replace(&own, &format!(":{}/", proxy.port()))).await;
    let far = table.open().await;
    let guard = locks(&near).lock("job").ttl(Duration::from_secs(2)).acquire().await.unwrap();
    proxy.hold();
    let next = locks(&far).lock("job").acquire().await.unwrap();
    assert!(!guard.is_valid(), "it was told before another was let in");
    assert!(next.token_if_any() > guard.token_if_any());
    proxy.forward();
    assert!(next.is_valid());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_clock_that_is_set_forward_makes_two_holders_and_the_fence_tells_them_apart() {
    let server = PostgresServer::start_with_clock();
    init(&server.url()).await.unwrap();
    let store = open(&server.url()).await;
    let held = Locks::builder_of(store.clone()).ttl(LONG).build().lock("job").acquire().await.unwrap();
    assert!(matches!(store.request(&Claim::new(name("job"), LONG)).await.unwrap(), Attempt::Held(_)));
    server.set_clock("+7200");
    let next = grant_eventually(&*store, &Claim::new(name("job"), LONG)).await;
    assert!(held.is_valid(), "its holder believes");
    let resource = lock_core::Fence::in_memory();
    drop(resource.enter(&name("job"), &next).await.unwrap());
    assert!(resource.enter(&name("job"), held.token_if_any().unwrap()).await.is_err(), "and is refused");
    assert!(held.renew().await.is_err() && !held.is_valid(), "and learns with its next renewal");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_clock_that_is_set_back_keeps_a_lease_for_longer_and_never_for_less() {
    let server = PostgresServer::start_with_clock();
    init(&server.url()).await.unwrap();
    let store = open(&server.url()).await;
    let claim = Claim::new(name("job"), Duration::from_secs(1));
    let token = grant(&*store, &claim).await;
    server.set_clock("-7200");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let next = Claim::new(name("job"), LONG);
    let Attempt::Held(held) = store.request(&next).await.unwrap() else { panic!("it is kept") };
    assert!(held.retry_after > Duration::from_secs(3_600), "{:?}", held.retry_after);
    // The clock is right again, and tokens did not depend on it.
    server.set_clock("+0");
    assert!(grant_eventually(&*store, &next).await > token);
}

/// Acquires and releases a name again and again; returns the leases that it observed.
async fn turns(store: Arc<PostgresStore>, job: String, start: Instant, over: Arc<AtomicBool>) -> Vec<ObservedLease> {
    const TTL: Duration = Duration::from_secs(3);
    let locks = Locks::builder_of(store).ttl(TTL).call_timeout(Duration::from_secs(3)).build();
    let mut observed = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let invoked = start.elapsed();
        let Ok(Some(guard)) = locks.lock(&job).try_acquire().await else {
            tokio::time::sleep(Duration::from_millis(2)).await;
            continue;
        };
        let returned = start.elapsed();
        let token = guard.token_if_any().unwrap().number();
        tokio::time::sleep(Duration::from_millis(1)).await;
        let believed_until = start.elapsed() + guard.remaining();
        let released = start.elapsed();
        let outcome = guard.release().await;
        observed.push(ObservedLease {
            token,
            invoked,
            returned,
            expires: invoked + TTL,
            released: Some(released),
            believed_until: believed_until.min(released),
            confirmed: if outcome.is_ok() { vec![released] } else { Vec::new() },
        });
    }
    locks.close().await;
    observed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_under_load_and_comes_back_repeats_no_token_and_frees_no_lease() {
    let mut server = PostgresServer::start(&[]);
    init(&server.url()).await.unwrap();
    // Held throughout, and not renewed: the record must survive every crash.
    let keeper = open(&server.url()).await;
    let held = Claim::new(name("held"), LONG);
    let token = grant(&*keeper, &held).await;
    let (start, over) = (Instant::now(), Arc::new(AtomicBool::new(false)));
    let mut workers = Vec::new();
    for number in 0..8 {
        let store = open(&format!("{}?{SHORT_TIMEOUTS}&connections=2", server.url())).await;
        let job = format!("job {}", number % 2);
        workers.push((number % 2, tokio::spawn(turns(store, job, start, over.clone()))));
    }
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        server.restart();
        let other = Claim::new(name("held"), LONG);
        let attempt = crate::fixture::request(&*keeper, &other).await;
        assert!(matches!(attempt, Attempt::Held(_)), "a lease within its TTL was given to another: {attempt:?}");
    }
    tokio::time::sleep(Duration::from_millis(700)).await;
    over.store(true, Ordering::Relaxed);
    let mut histories = [History::default(), History::default()];
    for (job, worker) in workers {
        histories[job].leases.extend(worker.await.unwrap());
    }
    for history in &histories {
        assert!(history.leases.len() > 10, "{} leases are no load", history.leases.len());
        assert_eq!(history.check(), Ok(()));
    }
    assert_eq!(grant(&*keeper, &held).await, token, "the holder itself still has it");
}
