//! A folder with a lock file, and what every test does with it.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lock_core::{Attempt, Claim, Contention, Lease, LockName, LockStore};
use lock_sqlite::{SqliteConfig, SqliteStore};
use rusqlite::Connection;

/// Long enough that no lease ends during a test that does not wait for it.
pub(crate) const TTL: Duration = Duration::from_secs(60);

/// A folder of its own with a lock file.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    /// In the folder of the build, which is on a disk.
    pub(crate) fn on_disk() -> Folder {
        Folder(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap())
    }

    pub(crate) fn in_memory() -> Folder {
        Folder(tempfile::tempdir_in("/dev/shm").unwrap())
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.path().join("locks.db")
    }

    pub(crate) fn config(&self) -> SqliteConfig {
        SqliteConfig::new(self.path())
    }

    pub(crate) async fn open(&self) -> SqliteStore {
        SqliteStore::open(self.config()).await.unwrap()
    }

    /// A connection of the test's own.
    pub(crate) fn connect(&self) -> Connection {
        connect(&self.path())
    }

    pub(crate) fn write(&self, sql: &str) {
        self.connect().execute_batch(sql).unwrap();
    }

    pub(crate) fn number(&self, sql: &str) -> i64 {
        self.connect().query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// Another program inside its write transaction, until it is dropped.
    pub(crate) fn writer(&self) -> Writer {
        let connection = self.connect();
        connection.execute_batch("begin immediate").unwrap();
        Writer(connection)
    }

    pub(crate) fn data_version_probe(&self) -> Probe {
        let connection = self.connect();
        let version = data_version(&connection);
        Probe(connection, version)
    }

    /// Waits for a condition.
    pub(crate) async fn wait_until<F: Future<Output = bool>>(&self, mut condition: impl FnMut() -> F) {
        let started = Instant::now();
        while !condition().await {
            assert!(started.elapsed() < Duration::from_secs(60), "it did not come about");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

pub(crate) struct Writer(Connection);

pub(crate) struct Probe(Connection, i64);

impl Probe {
    pub(crate) fn has_changed(&self) -> bool {
        data_version(&self.0) != self.1
    }
}

fn data_version(connection: &Connection) -> i64 {
    connection.query_row("pragma data_version", [], |row| row.get(0)).unwrap()
}

pub(crate) fn connect(path: &Path) -> Connection {
    Connection::open(path).unwrap()
}

pub(crate) fn claim(name: &str) -> Claim {
    Claim::new(LockName::new(name).unwrap(), TTL)
}

pub(crate) async fn acquired(store: &SqliteStore, claim: &Claim) -> Lease {
    match store.request(claim).await.unwrap() {
        Attempt::Granted(lease) => lease,
        Attempt::Held(waiting) => panic!("{} is held by {}", claim.name(), waiting.by),
    }
}

pub(crate) async fn held(store: &SqliteStore, claim: &Claim) -> Contention {
    match store.request(claim).await.unwrap() {
        Attempt::Granted(_) => panic!("{} was free", claim.name()),
        Attempt::Held(waiting) => waiting,
    }
}

pub(crate) async fn token(store: &SqliteStore, claim: &Claim) -> u64 {
    acquired(store, claim).await.token.unwrap().number()
}

pub(crate) async fn free(store: &SqliteStore, name: &str) -> bool {
    store.inspect(&LockName::new(name).unwrap()).await.unwrap().is_none()
}
