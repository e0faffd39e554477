//! The suite on etcd: with one member, and with three.

use std::collections::HashSet;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use etcd_client::{Client, GetOptions};
use lock_conformance::{Deployment, Factory, Failure, async_trait};
use lock_core::{Clock, LockStore};
use lock_etcd::{EtcdConfig, EtcdStore};
use lock_testkit::Etcd;

/// A cluster of so many members, which all cases share; each has a prefix of its own.
struct Cluster(usize, OnceLock<Arc<Etcd>>, AtomicU32);
struct Prefix(Arc<Etcd>, String);

#[async_trait]
impl Factory for Cluster {
    async fn deploy(&self) -> Result<Arc<dyn Deployment>, Failure> {
        let etcd = self.1.get_or_init(|| Arc::new(Etcd::start(self.0))).clone();
        Ok(Arc::new(Prefix(etcd, format!("case{}/", self.2.fetch_add(1, Ordering::Relaxed)))))
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(2)
    }

    fn ends_sessions(&self) -> bool {
        true
    }
}

#[async_trait]
impl Deployment for Prefix {
    async fn open(&self) -> Result<Arc<dyn LockStore>, Failure> {
        let config = EtcdConfig::new(self.0.endpoints()).prefix(&self.1);
        Ok(Arc::new(EtcdStore::connect(config, &Clock::system()).await?))
    }

    async fn end_sessions(&self) -> Result<(), Failure> {
        let client = Client::connect(self.0.endpoints(), None).await?;
        let keys = client.kv_client().get(self.1.as_str(), Some(GetOptions::new().with_prefix())).await?;
        let leases: HashSet<i64> = keys.kvs().iter().map(|kv| kv.lease()).collect();
        for lease in leases {
            client.lease_client().revoke(lease).await?;
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    let of = |count| Arc::new(Cluster(count, OnceLock::new(), AtomicU32::new(0))) as Arc<dyn Factory>;
    lock_conformance::run_each([("one", of(1)), ("three", of(3))])
}
