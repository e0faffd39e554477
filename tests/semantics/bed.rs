//! The stores on which the scenarios run.

use std::sync::Arc;
use std::time::Duration;

use leasehold::{Clock, LockStore, MemoryStore, StoreUrl, registry};
use lock_testkit::{Etcd, Proxy, RedisServer};
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
                registry().open(&url, &Clock::system()).await.unwrap()
            }
        }
    }

    /// The same store behind a link that can be cut, and the link.
    pub(crate) fn linked(&self) -> (String, Proxy) {
        let (url, port) = (self.url().expect("it has a URL"), self.port());
        let proxy = Proxy::to(port);
        (url.replace(&format!(":{port}"), &format!(":{}", proxy.port())), proxy)
    }

    fn port(&self) -> u16 {
        match &self.at {
            At::Etcd(cluster) => cluster.endpoints()[0].rsplit(':').next().and_then(|port| port.parse().ok()).unwrap(),
            At::Redis(server) => server.port(),
            At::Memory(_) | At::File(_) => panic!("it has no server"),
        }
    }

    /// Kills the server, and starts it again on what it kept.
    pub(crate) fn restart(&mut self) {
        match &mut self.at {
            At::Etcd(cluster) => {
                cluster.kill_all();
                cluster.start_all();
            }
            At::Redis(server) => server.restart(),
            At::Memory(_) | At::File(_) => panic!("it has no server"),
        }
    }

    /// The server stands still.
    pub(crate) fn pause(&self) {
        match &self.at {
            At::Etcd(cluster) => cluster.member(0).process().pause(),
            At::Redis(server) => server.pause(),
            At::Memory(_) | At::File(_) => panic!("it has no server"),
        }
    }

    /// The server goes on.
    pub(crate) fn resume(&self) {
        match &self.at {
            At::Etcd(cluster) => cluster.member(0).process().resume(),
            At::Redis(server) => server.resume(),
            At::Memory(_) | At::File(_) => panic!("it has no server"),
        }
    }

    /// By which a process of its own finds the store, if it can.
    pub(crate) fn url(&self) -> Option<String> {
        match &self.at {
            At::Memory(_) => None,
            At::Etcd(cluster) => Some(format!("etcd://{}", cluster.endpoints().join(","))),
            At::Redis(server) => Some(server.url()),
            At::File(folder) => Some(format!("sqlite:{}/locks.db", folder.path().display())),
        }
    }
}
