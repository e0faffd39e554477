//! The deployments of the conformance suite: each is a schema of its own on one server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lock_conformance::{Deployment, Factory, Failure, async_trait};
use lock_core::{Clock, LockStore, Registry};
use lock_postgres::{PostgresDriver, PostgresStore};
use lock_testkit::{PgBouncer, PostgresServer};

/// One server for all cases.
pub(crate) struct PostgresFactory {
    url: String,
    keys: &'static str,
    deployments: AtomicU32,
    _pooler: Option<PgBouncer>,
    server: Arc<PostgresServer>,
}

impl PostgresFactory {
    /// Directly to the server, with these keys of a URL.
    pub(crate) fn directly(keys: &'static str) -> PostgresFactory {
        let server = Arc::new(PostgresServer::start(&[]));
        PostgresFactory { url: server.url(), keys, deployments: AtomicU32::new(0), _pooler: None, server }
    }

    /// Through a pooler that shares connections.
    pub(crate) fn pooled(keys: &'static str) -> PostgresFactory {
        let server = Arc::new(PostgresServer::start(&[]));
        let pooler = PgBouncer::start(&server);
        PostgresFactory { url: pooler.url(), keys, deployments: AtomicU32::new(0), _pooler: Some(pooler), server }
    }
}

struct Schema {
    url: String,
    name: String,
    server: Arc<PostgresServer>,
}

#[async_trait]
impl Factory for PostgresFactory {
    async fn deploy(&self) -> Result<Arc<dyn Deployment>, Failure> {
        let name = format!("s{}", self.deployments.fetch_add(1, Ordering::Relaxed));
        let url = match self.ends_sessions() {
            false => format!("{}?table={name}.lease{}", self.url, self.keys),
            // Advisory locks are those of a database, whatever the table is.
            true => {
                self.server.psql(&format!("create database {name}"));
                let url = format!("{}/{name}", self.url.trim_end_matches("/postgres"));
                format!("{url}?table={name}.lease{}", self.keys)
            }
        };
        Registry::new().with(PostgresDriver).init(&url.parse()?).await?;
        Ok(Arc::new(Schema { url, name, server: self.server.clone() }))
    }

    fn ttl(&self) -> Duration {
        Duration::from_millis(1_500)
    }

    fn finding_codes(&self) -> &'static [&'static str] {
        // Those of both stores.
        PostgresStore::FINDING_CODES
    }

    fn ends_sessions(&self) -> bool {
        self.keys.contains("advisory")
    }
}

#[async_trait]
impl Deployment for Schema {
    async fn open(&self) -> Result<Arc<dyn LockStore>, Failure> {
        Ok(Registry::new().with(PostgresDriver).open(&self.url.parse()?, &Clock::system()).await?)
    }

    async fn end_sessions(&self) -> Result<(), Failure> {
        // Only those of this deployment, which its connections are named after.
        let end = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = ";
        self.server.psql(&format!("{end}'leasehold {}.lease'", self.name));
        Ok(())
    }
}
