//! The stores on which the scenarios run.

use std::sync::Arc;
use std::time::Duration;

use leasehold::store::LockStore;
use leasehold::{Clock, MemoryStore, StoreUrl, registry};
use lock_testkit::{Etcd, PostgresServer, Proxy, RedisServer, Server, ZooKeeper, redlock_url};
use tempfile::TempDir;

/// A store on which the scenarios run.
#[derive(Debug)]
pub(crate) struct Fixture {
    pub(crate) name: &'static str,
    pub(crate) make: fn() -> Deployment,
}

pub(crate) const FIXTURES: &[Fixture] = &[
    Fixture { name: "memory", make: || Deployment::Memory(MemoryStore::new()) },
    Fixture { name: "etcd", make: etcd },
    Fixture { name: "postgres", make: postgres },
    Fixture { name: "redis", make: redis },
    Fixture { name: "redlock", make: redlock },
    Fixture { name: "sqlite", make: || Deployment::File(tempfile::tempdir().unwrap()) },
    Fixture { name: "zk", make: zk },
];

fn etcd() -> Deployment {
    let cluster = Etcd::start(1);
    Deployment::served(format!("etcd://{}", cluster.endpoints().join(",")), cluster)
}

fn postgres() -> Deployment {
    let server = PostgresServer::start(&[]);
    Deployment::served(server.url(), server)
}

// The time-outs of Redis are long, for a busy machine.

fn redis() -> Deployment {
    let server = synced();
    Deployment::served(format!("{}?connect_timeout=30s&response_timeout=30s", server.url()), server)
}

fn redlock() -> Deployment {
    let servers: Vec<_> = (0..5).map(|_| synced()).collect();
    Deployment::served(redlock_url(&servers) + "?connect_timeout=30s&member_timeout=4s", servers)
}

fn synced() -> RedisServer {
    RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"])
}

fn zk() -> Deployment {
    let ensemble = ZooKeeper::start(1);
    Deployment::served(format!("zk://{}/app?tick=500ms", ensemble.endpoints().join(",")), ensemble)
}

/// A store with its own data.
pub(crate) enum Deployment {
    Memory(MemoryStore),
    File(TempDir),
    Served { url: String, server: Box<dyn Server> },
}

impl Fixture {
    pub(crate) fn make(&self) -> Deployment {
        (self.make)()
    }
}

impl Deployment {
    /// The short TTL: long compared to one call to any of these stores on a busy machine.
    pub(crate) const TTL: Duration = Duration::from_secs(1);
    /// The TTL of a lock that must still be held after a while.
    pub(crate) const LONG_TTL: Duration = Duration::from_secs(3);

    fn served(url: String, server: impl Server + 'static) -> Deployment {
        Deployment::Served { url, server: Box::new(server) }
    }

    /// Opens a handle on the same data, as another process would.
    pub(crate) async fn open(&self) -> Arc<dyn LockStore> {
        match (self, self.url()) {
            (Deployment::Memory(store), _) => Arc::new(store.clone()),
            (_, url) => {
                let url: StoreUrl = url.expect("it has a URL").parse().unwrap();
                registry().open(&url, &Clock::system()).await.unwrap()
            }
        }
    }

    /// Initializes the store (`leasehold init`).
    pub(crate) async fn init(&self) {
        if let Some(url) = self.url() {
            registry().init(&url.parse().unwrap()).await.unwrap();
        }
    }

    /// The URL by which another process opens the store; `None` if it cannot.
    pub(crate) fn url(&self) -> Option<String> {
        match self {
            Deployment::Memory(_) => None,
            Deployment::File(folder) => Some(format!("sqlite:{}/locks.db", folder.path().display())),
            Deployment::Served { url, .. } => Some(url.clone()),
        }
    }

    /// The URL of the store behind proxies, and the proxies.
    pub(crate) fn proxied(&self) -> (String, Vec<Proxy>) {
        let Deployment::Served { url, server } = self else { panic!("it has no server") };
        let proxies: Vec<_> = server.ports().into_iter().map(|port| (port, Proxy::to(port))).collect();
        let through =
            |url: String, (port, proxy): &(u16, Proxy)| url.replace(&format!(":{port}"), &format!(":{}", proxy.port()));
        let url = proxies.iter().fold(url.clone(), through);
        (url, proxies.into_iter().map(|(_, proxy)| proxy).collect())
    }

    pub(crate) fn server(&mut self) -> &mut dyn Server {
        let Deployment::Served { server, .. } = self else { panic!("it has no server") };
        &mut **server
    }
}
