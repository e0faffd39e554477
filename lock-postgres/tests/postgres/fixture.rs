//! The fixture of the tests: a server, tables, stores, and steps.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use lock_core::{Attempt, Claim, Clock, FencingToken, Finding, LockName, LockStore, Locks, Registry, Result, Severity};
use lock_postgres::{PostgresConfig, PostgresDriver, PostgresStore};
use lock_testkit::{PostgresServer, WAIT_TIMEOUT};

/// Far longer than any test: a test that passes did not wait for the end of such a lease.
pub(crate) const LONG: Duration = Duration::from_secs(600);

pub(crate) fn name(text: &str) -> LockName {
    LockName::new(text).unwrap()
}

/// One server for all tests that do not harm it; it ends with the last of the concurrent tests.
pub(crate) fn shared_server() -> Arc<PostgresServer> {
    static SHARED: Mutex<Weak<PostgresServer>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let server = Arc::new(PostgresServer::start(&[]));
        *shared = Arc::downgrade(&server);
        server
    })
}

/// A table of one test, and its server.
pub(crate) struct Table {
    pub(crate) server: Arc<PostgresServer>,
    pub(crate) name: String,
}

impl Table {
    /// A new table on the shared server.
    pub(crate) async fn new() -> Table {
        static TABLES: AtomicU32 = AtomicU32::new(0);
        let table =
            Table { server: shared_server(), name: format!("t{}.lease", TABLES.fetch_add(1, Ordering::Relaxed)) };
        init(&table.url("")).await.unwrap();
        table
    }

    /// Its URL, with more keys.
    pub(crate) fn url(&self, keys: &str) -> String {
        format!("{}?table={}{keys}", self.server.url(), self.name)
    }

    pub(crate) async fn open(&self) -> Arc<PostgresStore> {
        open(&self.url("")).await
    }
}

pub(crate) async fn init(url: &str) -> Result<()> {
    Registry::new().with(PostgresDriver).init(&url.parse()?).await.map(|_| ())
}

pub(crate) async fn try_open(url: &str) -> Result<Arc<PostgresStore>> {
    Ok(Arc::new(PostgresStore::connect(PostgresConfig::from_url(&url.parse()?)?).await?))
}

pub(crate) async fn open(url: &str) -> Arc<PostgresStore> {
    try_open(url).await.unwrap()
}

/// The findings that are worse than a plain fact.
pub(crate) async fn warnings(store: &dyn LockStore) -> Vec<Finding> {
    let findings = store.diagnose().await.unwrap();
    findings.into_iter().filter(|finding| finding.severity > Severity::Info).collect()
}

pub(crate) fn codes(findings: &[Finding]) -> Vec<&'static str> {
    findings.iter().map(|finding| finding.code).collect()
}

/// Opens the store of this URL, in either mode.
pub(crate) async fn open_any(url: &str) -> Result<Arc<dyn LockStore>> {
    Registry::new().with(PostgresDriver).open(&url.parse()?, &Clock::system()).await
}

pub(crate) fn locks(store: &Arc<PostgresStore>) -> Locks {
    Locks::builder_of(store.clone()).ttl(LONG).build()
}

/// Requests until the store replies: a lost connection is noticed by the first step over it.
pub(crate) async fn request(store: &dyn LockStore, claim: &Claim) -> Attempt {
    let started = Instant::now();
    loop {
        match store.request(claim).await {
            Ok(attempt) => return attempt,
            Err(error) => assert!(error.is_retryable() && started.elapsed() < WAIT_TIMEOUT, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn grant(store: &dyn LockStore, claim: &Claim) -> FencingToken {
    match request(store, claim).await {
        Attempt::Granted(lease) => lease.token.unwrap(),
        Attempt::Held(by) => panic!("it must be free, and is held by {by:?}"),
    }
}

/// Requests until the lock is granted.
pub(crate) async fn grant_eventually(store: &dyn LockStore, claim: &Claim) -> FencingToken {
    let started = Instant::now();
    loop {
        if let Attempt::Granted(lease) = request(store, claim).await {
            return lease.token.unwrap();
        }
        assert!(started.elapsed() < WAIT_TIMEOUT, "\"{}\" does not become free", claim.name());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Polls until `holds` is true.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < WAIT_TIMEOUT, "{what}: not within {WAIT_TIMEOUT:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
