//! The stores that are put under load.

use leasehold::registry;
use lock_testkit::{Etcd, PostgresServer, Proxy, RedisServer, Server, ZooKeeper};

/// A store that is put under load.
#[derive(Debug)]
pub(crate) struct Bed {
    pub(crate) name: &'static str,
    /// Whether a server has the locks, and not the process itself.
    pub(crate) is_served: bool,
    make: fn() -> Made,
}

pub(crate) const BEDS: &[Bed] = &[
    Bed { name: "memory", is_served: false, make: || Made { url: "memory:".to_owned(), server: None } },
    Bed { name: "redis", is_served: true, make: redis },
    Bed { name: "etcd", is_served: true, make: etcd },
    Bed { name: "zk", is_served: true, make: zk },
    Bed { name: "postgres", is_served: true, make: postgres },
];

// The settings of clients are those that a user has who sets none.

fn redis() -> Made {
    let server = RedisServer::start(&[]);
    Made::served(server.url(), server)
}

fn etcd() -> Made {
    let cluster = Etcd::start(1);
    Made::served(format!("etcd://{}", cluster.endpoints().join(",")), cluster)
}

fn zk() -> Made {
    let ensemble = ZooKeeper::start(1);
    Made::served(format!("zk://{}/app", ensemble.endpoints().join(",")), ensemble)
}

fn postgres() -> Made {
    let server = PostgresServer::start(&[]);
    let made = Made::served(server.url(), server);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(registry().init(&made.url.parse().unwrap())).unwrap();
    made
}

/// A store with data of its own.
pub(crate) struct Made {
    pub(crate) url: String,
    server: Option<Box<dyn Server>>,
}

impl Bed {
    pub(crate) fn make(&self) -> Made {
        (self.make)()
    }
}

impl Made {
    fn served(url: String, server: impl Server + 'static) -> Made {
        Made { url, server: Some(Box::new(server)) }
    }

    pub(crate) fn server(&self) -> &dyn Server {
        self.server.as_deref().expect("it has a server")
    }

    /// By which a process finds the store behind links, and the links.
    pub(crate) fn linked(&self) -> (String, Vec<Proxy>) {
        let links: Vec<_> = self.server().ports().into_iter().map(|port| (port, Proxy::to(port))).collect();
        let through =
            |url: String, (port, link): &(u16, Proxy)| url.replace(&format!(":{port}"), &format!(":{}", link.port()));
        let url = links.iter().fold(self.url.clone(), through);
        (url, links.into_iter().map(|(_, link)| link).collect())
    }
}
