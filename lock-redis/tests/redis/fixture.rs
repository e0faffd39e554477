//! Servers, stores and claims that the tests share.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use lock_core::{
    Attempt, Claim, Error, ErrorKind, FencingToken, Finding, LockName, LockStore, Locks, Result, Severity,
};
use lock_redis::{RedisConfig, RedisStore};
use lock_testkit::{RedisServer, WAIT_TIMEOUT};

/// Far longer than any test: a test that ends within it has not waited for the end of a lease.
pub(crate) const LONG: Duration = Duration::from_secs(600);

const GENEROUS: Duration = Duration::from_secs(30);

pub(crate) const SYNCED: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

pub(crate) fn name(text: &str) -> LockName {
    LockName::new(text).unwrap()
}

/// Connects with generous time-outs, unless a test sets others: on a busy machine any answer can be
/// slow.
pub(crate) async fn try_open(url: &str) -> Result<Arc<RedisStore>> {
    let mut config = RedisConfig::from_url(&url.parse()?)?;
    if config.connect_timeout == RedisConfig::DEFAULT_CONNECT_TIMEOUT {
        config.connect_timeout = GENEROUS;
    }
    if config.response_timeout == RedisConfig::DEFAULT_RESPONSE_TIMEOUT {
        config.response_timeout = GENEROUS;
    }
    Ok(Arc::new(RedisStore::connect(config).await?))
}

pub(crate) async fn open(url: &str) -> Arc<RedisStore> {
    let started = Instant::now();
    loop {
        match try_open(url).await {
            Ok(store) => return store,
            Err(error) => assert!(error.is_retryable() && started.elapsed() < WAIT_TIMEOUT, "{error:?}"),
        }
    }
}

pub(crate) fn locks(store: &Arc<RedisStore>) -> Locks {
    Locks::builder_of(store.clone()).ttl(LONG).build()
}

/// The findings that are worse than a plain fact.
pub(crate) async fn warnings(store: &RedisStore) -> Vec<Finding> {
    let findings = store.diagnose().await.unwrap();
    findings.into_iter().filter(|finding| finding.severity > Severity::Info).collect()
}

pub(crate) fn codes(findings: &[Finding]) -> Vec<&'static str> {
    findings.iter().map(|finding| finding.code).collect()
}

pub(crate) fn server() -> RedisServer {
    RedisServer::start(&SYNCED)
}

/// Requests until the store answers: the first call on a lost connection fails.
pub(crate) async fn request(store: &RedisStore, claim: &Claim) -> Attempt {
    let started = Instant::now();
    loop {
        match store.request(claim).await {
            Ok(attempt) => return attempt,
            Err(error) => assert!(error.is_retryable() && started.elapsed() < WAIT_TIMEOUT, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn grant(store: &RedisStore, claim: &Claim) -> FencingToken {
    match request(store, claim).await {
        Attempt::Granted(lease) => lease.token.unwrap(),
        Attempt::Held(by) => panic!("it must be free, and is held by {by:?}"),
    }
}

pub(crate) async fn is_held(store: &RedisStore, text: &str) -> bool {
    matches!(request(store, &Claim::new(name(text), LONG)).await, Attempt::Held(_))
}

/// The error of a request, other than a time-out of a busy machine.
pub(crate) async fn refusal(store: &RedisStore, claim: &Claim) -> Error {
    let started = Instant::now();
    loop {
        let error = store.request(claim).await.expect_err("it is refused");
        if error.kind() != ErrorKind::TimedOut || started.elapsed() > WAIT_TIMEOUT {
            return error;
        }
    }
}

/// Number of calls of a command at the server, by clients and scripts; `evalsha` counts scripts.
pub(crate) fn calls(server: &RedisServer, command: &str) -> u64 {
    let stats = server.cli(&["INFO", "commandstats"]);
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_")?.strip_prefix(command)?.strip_prefix(':'));
    line.map_or(0, |line| line.split(['=', ',']).nth(1).unwrap().parse().unwrap())
}

/// A proxy before a server that counts the scripts that are called, and can hold all replies.
pub(crate) struct CountingProxy {
    port: u16,
    state: Arc<ProxyState>,
}

#[derive(Default)]
struct ProxyState {
    scripts: AtomicUsize,
    holds: Mutex<bool>,
    changed: Condvar,
}

impl CountingProxy {
    pub(crate) fn to(server: &RedisServer) -> CountingProxy {
        let (listener, state) = (TcpListener::bind(("127.0.0.1", 0)).unwrap(), Arc::<ProxyState>::default());
        let (port, target, counting) = (listener.local_addr().unwrap().port(), server.port(), state.clone());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else { continue };
                drop((client.set_nodelay(true), server.set_nodelay(true)));
                let (asks, answers) = (counting.clone(), counting.clone());
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || copy(from, to, |bytes, before| asks.count(bytes, before)));
                thread::spawn(move || copy(server, client, |_, _| answers.wait()));
            }
        });
        CountingProxy { port, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Number of scripts called since the last call of this function.
    pub(crate) fn scripts(&self) -> usize {
        self.state.scripts.swap(0, Ordering::SeqCst)
    }

    pub(crate) fn hold_replies(&self, holds: bool) {
        *self.state.holds.lock().unwrap() = holds;
        self.state.changed.notify_all();
    }
}

impl ProxyState {
    /// Counts the scripts in `bytes`, of which the first `before` were counted already.
    fn count(&self, bytes: &[u8], before: usize) {
        const COMMAND: &[u8] = b"EVALSHA";
        let is_new = |at: &usize| at + COMMAND.len() > before;
        let ends = bytes.windows(COMMAND.len()).enumerate().filter(|(_, word)| *word == COMMAND).map(|(at, _)| at);
        self.scripts.fetch_add(ends.filter(is_new).count(), Ordering::SeqCst);
    }

    fn wait(&self) {
        let mut holds = self.holds.lock().unwrap();
        while *holds {
            holds = self.changed.wait(holds).unwrap();
        }
    }
}

/// Copies `from` one end `to` the other, after `look` has seen the bytes together with the last few
/// before them.
fn copy(mut from: TcpStream, mut to: TcpStream, inspect: impl Fn(&[u8], usize)) {
    const BEFORE: usize = 6;
    let (mut bytes, mut before) = ([0; BEFORE + (16 << 10)], 0);
    while let Ok(size @ 1..) = from.read(&mut bytes[before..]) {
        inspect(&bytes[..before + size], before);
        if to.write_all(&bytes[before..before + size]).is_err() {
            break;
        }
        let (end, kept) = (before + size, BEFORE.min(before + size));
        bytes.copy_within(end - kept..end, 0);
        before = kept;
    }
    drop((from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both)));
}
