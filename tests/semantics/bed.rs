//! The stores on which the scenarios run.

use std::sync::Arc;
use std::time::Duration;

use leasehold::{Clock, LockStore, MemoryStore, StoreUrl, registry};
use lock_testkit::{Etcd, PostgresServer, RedisServer};
use tempfile::TempDir;

/// A store on which the scenarios run.
#[derive(Debug)]
pub(crate) struct Bed {
    pub(crate) name: &'static str,
    pub(crate) make: fn() -> Made,
}

pub(crate) const BEDS: &[Bed] = &[
    Bed { name: "memory", make: || Made { at: At::Memory(MemoryStore::new()) } },
    Bed { name: "etcd", make: || Made { at: At::Etcd(Etcd::start(1)) } },
    Bed {
        name: "redis",
        make: || Made { at: At::Redis(RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"])) },
    },
    Bed { name: "postgres", make: || Made { at: At::Postgres(PostgresServer::start(&[])) } },
    Bed { name: "sqlite", make: || Made { at: At::File(tempfile::tempdir().unwrap()) } },
];

/// A store with data of its own.
pub(crate) struct Made {
    at: At,
}

enum At {
    Memory(MemoryStore),
    Etcd(Etcd),
    Redis(RedisServer),
    Postgres(PostgresServer),
    File(TempDir),
}

impl Bed {
    pub(crate) fn make(&self) -> Made {
        (self.make)()
    }
}

impl Made {
    /// Long against one call to any of these stores on a busy machine.
    pub(crate) const TTL: Duration = Duration::from_secs(1);

    /// Another process's view of the same data, or where all is in one process, another view.
    pub(crate) async fn open(&self) -> Arc<dyn LockStore> {
        match (&self.at, self.url()) {
            (At::Memory(store), _) => Arc::new(store.clone()),
            (_, url) => {
                let url: StoreUrl = url.expect("it has a URL").parse().unwrap();
                self.make_ready().await;
                registry().open(&url, &Clock::system()).await.unwrap()
            }
        }
    }

    /// Makes what the store needs before it is opened.
    pub(crate) async fn make_ready(&self) {
        if let Some(url) = self.url() {
            registry().init(&url.parse().unwrap()).await.unwrap();
        }
    }

    /// By which a process of its own finds the store, if it can.
    pub(crate) fn url(&self) -> Option<String> {
        match &self.at {
            At::Memory(_) => None,
            At::Etcd(cluster) => Some(format!("etcd://{}", cluster.endpoints().join(","))),
            At::Redis(server) => Some(server.url()),
            At::Postgres(server) => Some(server.url()),
            At::File(folder) => Some(format!("sqlite:{}/locks.db", folder.path().display())),
        }
    }
}
