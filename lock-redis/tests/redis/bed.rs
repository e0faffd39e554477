//! What the tests begin with.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use lock_core::{Attempt, Claim, Error, ErrorKind, FencingToken, LockName, LockStore, Locks, Result};
use lock_redis::{RedisConfig, RedisStore};
use lock_testkit::{WAIT_TIMEOUT, RedisServer};

/// Far longer than any test: what ends within it did not wait for the end of a lease.
pub(crate) const LONG: Duration = Duration::from_secs(600);

const GENEROUS: Duration = Duration::from_secs(30);

pub(crate) const SYNCED: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

pub(crate) fn name(text: &str) -> LockName {
    LockName::new(text).unwrap()
}

/// On a busy machine any answer can take long: where a test asks for no other time-outs, they are generous.
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

pub(crate) fn server() -> RedisServer {
    RedisServer::start(&SYNCED)
}

/// Asks until the store answers: a connection that was lost is noticed by the first who uses it.
pub(crate) async fn ask(store: &RedisStore, claim: &Claim) -> Attempt {
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
    match ask(store, claim).await {
        Attempt::Granted(lease) => lease.token.unwrap(),
        Attempt::Held(by) => panic!("it must be free, and is held by {by:?}"),
    }
}

pub(crate) async fn is_held(store: &RedisStore, text: &str) -> bool {
    matches!(ask(store, &Claim::new(name(text), LONG)).await, Attempt::Held(_))
}

/// The error of a request, other than that the machine was too busy to answer.
pub(crate) async fn refusal(store: &RedisStore, claim: &Claim) -> Error {
    let started = Instant::now();
    loop {
        let error = store.request(claim).await.expect_err("it is refused");
        if error.kind() != ErrorKind::TimedOut || started.elapsed() > WAIT_TIMEOUT {
            return error;
        }
    }
}

/// How often the server was asked for a command, by a client or by a script; `evalsha` counts scripts.
pub(crate) fn calls(server: &RedisServer, command: &str) -> u64 {
    let stats = server.cli(&["INFO", "commandstats"]);
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_")?.strip_prefix(command)?.strip_prefix(':'));
    line.map_or(0, |line| line.split(['=', ',']).nth(1).unwrap().parse().unwrap())
}

/// A link to a server that counts the scripts that are asked for, and can keep all answers back.
pub(crate) struct Counted {
    port: u16,
    state: Arc<Counting>,
}

#[derive(Default)]
struct Counting {
    scripts: AtomicUsize,
    keeps: Mutex<bool>,
    changed: Condvar,
}

impl Counted {
    pub(crate) fn to(server: &RedisServer) -> Counted {
        let (listener, state) = (TcpListener::bind(("127.0.0.1", 0)).unwrap(), Arc::<Counting>::default());
        let (port, target, counting) = (listener.local_addr().unwrap().port(), server.port(), state.clone());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else { continue };
                drop((client.set_nodelay(true), server.set_nodelay(true)));
                let (asks, answers) = (counting.clone(), counting.clone());
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || carry(from, to, |bytes, before| asks.count(bytes, before)));
                thread::spawn(move || carry(server, client, |_, _| answers.wait()));
            }
        });
        Counted { port, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// How many scripts were asked for since this was asked last.
    pub(crate) fn scripts(&self) -> usize {
        self.state.scripts.swap(0, Ordering::SeqCst)
    }

    pub(crate) fn keep_answers(&self, keeps: bool) {
        *self.state.keeps.lock().unwrap() = keeps;
        self.state.changed.notify_all();
    }
}

impl Counting {
    /// Counts in `bytes`, of which so many had come before.
    fn count(&self, bytes: &[u8], before: usize) {
        const ASKS: &[u8] = b"EVALSHA";
        let is_new = |at: &usize| at + ASKS.len() > before;
        let ends = bytes.windows(ASKS.len()).enumerate().filter(|(_, word)| *word == ASKS).map(|(at, _)| at);
        self.scripts.fetch_add(ends.filter(is_new).count(), Ordering::SeqCst);
    }

    fn wait(&self) {
        let mut keeps = self.keeps.lock().unwrap();
        while *keeps {
            keeps = self.changed.wait(keeps).unwrap();
        }
    }
}

/// Carries what comes `from` one end `to` the other, after `look` has seen it with the last few bytes before it.
fn carry(mut from: TcpStream, mut to: TcpStream, look: impl Fn(&[u8], usize)) {
    const BEFORE: usize = 6;
    let (mut bytes, mut before) = ([0; BEFORE + (16 << 10)], 0);
    while let Ok(size @ 1..) = from.read(&mut bytes[before..]) {
        look(&bytes[..before + size], before);
        if to.write_all(&bytes[before..before + size]).is_err() {
            break;
        }
        let (end, kept) = (before + size, BEFORE.min(before + size));
        bytes.copy_within(end - kept..end, 0);
        before = kept;
    }
    drop((from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both)));
}
