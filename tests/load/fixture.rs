//! The stores that are put under load.

use leasehold::registry;
use lock_testkit::{Etcd, PostgresServer, Proxy, RedisServer, Server, ZooKeeper};

/// A store that is put under load.
#[derive(Debug)]
pub(crate) struct Fixture {
    pub(crate) name: &'static str,
    /// True if the locks are in a server, and not in the process.
    pub(crate) is_served: bool,
    make: fn() -> Deployment,
}

pub(crate) const FIXTURES: &[Fixture] = &[
    Fixture { name: "memory", is_served: false, make: || Deployment { url: "memory:".to_owned(), server: None } },
    Fixture { name: "redis", is_served: true, make: redis },
    Fixture { name: "etcd", is_served: true, make: etcd },
    Fixture { name: "zk", is_served: true, make: zk },
    Fixture { name: "postgres", is_served: true, make: postgres },
];

// The clients have default settings.

fn redis() -> Deployment {
    let server = RedisServer::start(&[]);
    Deployment::served(server.url(), server)
}

fn etcd() -> Deployment {
    let cluster = Etcd::start(1);
    Deployment::served(format!("etcd://{}", cluster.endpoints().join(",")), cluster)
}

fn zk() -> Deployment {
    let ensemble = ZooKeeper::start(1);
    Deployment::served(format!("zk://{}/app", ensemble.endpoints().join(",")), ensemble)
}

fn postgres() -> Deployment {
    let server = PostgresServer::start(&[]);
    let deployment = Deployment::served(server.url(), server);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(registry().init(&deployment.url.parse().unwrap())).unwrap();
    deployment
}

/// A store with its own data.
pub(crate) struct Deployment {
    pub(crate) url: String,
    server: Option<Box<dyn Server>>,
}

impl Fixture {
    pub(crate) fn make(&self) -> Deployment {
        (self.make)()
    }
}

impl Deployment {
    fn served(url: String, server: impl Server + 'static) -> Deployment {
        Deployment { url, server: Some(Box::new(server)) }
    }

    pub(crate) fn server(&self) -> &dyn Server {
        self.server.as_deref().expect("it has a server")
    }

    /// The URL of the store behind proxies, and the proxies.
    pub(crate) fn proxied(&self) -> (String, Vec<Proxy>) {
        let proxies: Vec<_> = self.server().ports().into_iter().map(|port| (port, Proxy::to(port))).collect();
        let through =
            |url: String, (port, proxy): &(u16, Proxy)| url.replace(&format!(":{port}"), &format!(":{}", proxy.port()));
        let url = proxies.iter().fold(self.url.clone(), through);
        (url, proxies.into_iter().map(|(_, proxy)| proxy).collect())
    }
}
