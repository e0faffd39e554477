//! The stores on which the scenarios run.

use std::sync::Arc;
use std::time::Duration;

use leasehold::{Clock, LockStore, MemoryStore, StoreUrl, registry};
use lock_testkit::{Etcd, PostgresServer, Proxy, RedisServer, Server, ZooKeeper, redlock_url};
use tempfile::TempDir;

/// A store on which the scenarios run.
#[derive(Debug)]
pub(crate) struct Bed {
    pub(crate) name: &'static str,
    pub(crate) make: fn() -> Made,
}

pub(crate) const BEDS: &[Bed] = &[
    Bed { name: "memory", make: || Made::Memory(MemoryStore::new()) },
    Bed { name: "etcd", make: etcd },
    Bed { name: "postgres", make: postgres },
    Bed { name: "redis", make: redis },
    Bed { name: "redlock", make: redlock },
    Bed { name: "sqlite", make: || Made::File(tempfile::tempdir().unwrap()) },
    Bed { name: "zk", make: zk },
];

fn etcd() -> Made {
    let cluster = Etcd::start(1);
    Made::served(format!("etcd://{}", cluster.endpoints().join(",")), cluster)
}

fn postgres() -> Made {
    let server = PostgresServer::start(&[]);
    Made::served(server.url(), server)
}

// The time-outs of Redis are generous, for a machine that is busy.

fn redis() -> Made {
    let server = synced();
    Made::served(format!("{}?connect_timeout=30s&response_timeout=30s", server.url()), server)
}

fn redlock() -> Made {
    let servers: Vec<_> = (0..5).map(|_| synced()).collect();
    Made::served(redlock_url(&servers) + "?connect_timeout=30s&member_timeout=4s", servers)
}

fn synced() -> RedisServer {
    RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"])
}

fn zk() -> Made {
    let ensemble = ZooKeeper::start(1);
    Made::served(format!("zk://{}/app?tick=500ms", ensemble.endpoints().join(",")), ensemble)
}

/// A store with data of its own.
pub(crate) enum Made {
    Memory(MemoryStore),
    File(TempDir),
    Served { url: String, server: Box<dyn Server> },
}

impl Bed {
    pub(crate) fn make(&self) -> Made {
        (self.make)()
    }
}

impl Made {
    /// Long against one call to any of these stores on a busy machine.
    pub(crate) const TTL: Duration = Duration::from_secs(1);
    /// For what must still be held after a while.
    pub(crate) const LONG_TTL: Duration = Duration::from_secs(3);

    fn served(url: String, server: impl Server + 'static) -> Made {
        Made::Served { url, server: Box::new(server) }
    }

    /// Another process's view of the same data, or where all is in one process, another view.
    pub(crate) async fn open(&self) -> Arc<dyn LockStore> {
        match (self, self.url()) {
            (Made::Memory(store), _) => Arc::new(store.clone()),
            (_, url) => {
                let url: StoreUrl = url.expect("it has a URL").parse().unwrap();
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
        match self {
            Made::Memory(_) => None,
            Made::File(folder) => Some(format!("sqlite:{}/locks.db", folder.path().display())),
            Made::Served { url, .. } => Some(url.clone()),
        }
    }

    /// By which a process finds the store behind links that can be cut, and the links.
    pub(crate) fn linked(&self) -> (String, Vec<Proxy>) {
        let Made::Served { url, server } = self else { panic!("it has no server") };
        let links: Vec<_> = server.ports().into_iter().map(|port| (port, Proxy::to(port))).collect();
        let through =
            |url: String, (port, link): &(u16, Proxy)| url.replace(&format!(":{port}"), &format!(":{}", link.port()));
        let url = links.iter().fold(url.clone(), through);
        (url, links.into_iter().map(|(_, link)| link).collect())
    }

    pub(crate) fn server(&mut self) -> &mut dyn Server {
        let Made::Served { server, .. } = self else { panic!("it has no server") };
        &mut **server
    }
}
