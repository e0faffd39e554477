//! The conformance suite on etcd: with one member, and with three.

use std::collections::HashSet;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use etcd_client::{Client, GetOptions};
use lock_conformance::{Deployment, Factory, Failure, async_trait};
use lock_core::{Clock, Fault, Faults, LockStore};
use lock_etcd::{EtcdConfig, EtcdStore};
use lock_testkit::{Etcd, until};

/// A cluster with this number of members, which the cases share that do not disturb it. Each case
/// has its own prefix.
struct Cluster(usize, OnceLock<Arc<Mutex<Etcd>>>, AtomicU32);
struct Prefix(Arc<Mutex<Etcd>>, String);

#[async_trait]
impl Factory for Cluster {
    async fn deploy(&self) -> Result<Arc<dyn Deployment>, Failure> {
        let etcd = self.1.get_or_init(|| Arc::new(Mutex::new(Etcd::start(self.0)))).clone();
        Ok(Arc::new(Prefix(etcd, format!("case{}/", self.2.fetch_add(1, Ordering::Relaxed)))))
    }

    async fn deploy_for(&self, _fault: Fault) -> Result<Arc<dyn Deployment>, Failure> {
        Ok(Arc::new(Prefix(Arc::new(Mutex::new(Etcd::start(self.0))), "case/".to_owned())))
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(2)
    }

    fn finding_codes(&self) -> &'static [&'static str] {
        EtcdStore::FINDING_CODES
    }

    fn faults(&self) -> Faults {
        let any = Faults::of(&[Fault::Crash, Fault::Pause]);
        if self.0 < 3 { any } else { any | Faults::of(&[Fault::FailOver, Fault::MinorityLoss]) }
    }

    fn ends_sessions(&self) -> bool {
        true
    }
}

#[async_trait]
impl Deployment for Prefix {
    async fn open(&self) -> Result<Arc<dyn LockStore>, Failure> {
        let config = EtcdConfig::new(self.endpoints()).prefix(&self.1);
        Ok(Arc::new(EtcdStore::connect(config, &Clock::system()).await?))
    }

    async fn inflict(&self, fault: Fault) -> Result<(), Failure> {
        let etcd = self.0.clone();
        let inflict = move || inflict(&mut etcd.lock().unwrap_or_else(PoisonError::into_inner), fault);
        Ok(tokio::task::spawn_blocking(inflict).await?)
    }

    async fn end_sessions(&self) -> Result<(), Failure> {
        let client = Client::connect(self.endpoints(), None).await?;
        let keys = client.kv_client().get(self.1.as_str(), Some(GetOptions::new().with_prefix())).await?;
        // The mark of the realm is on no lease.
        let leases: HashSet<i64> = keys.kvs().iter().map(|kv| kv.lease()).filter(|lease| *lease != 0).collect();
        for lease in leases {
            client.lease_client().revoke(lease).await?;
        }
        Ok(())
    }
}

impl Prefix {
    fn endpoints(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).endpoints()
    }
}

fn inflict(etcd: &mut Etcd, fault: Fault) {
    // Lost members come back first: a fault hits a whole cluster.
    etcd.start_all();
    let leader = etcd.leader();
    match fault {
        Fault::FailOver => {
            etcd.member_mut(leader).kill();
            etcd.leader_other_than(leader);
        }
        Fault::MinorityLoss => etcd.member_mut((leader + 1) % 3).kill(),
        Fault::Pause => {
            etcd.member(leader).process().pause();
            // With other members, the pause lasts until it is deposed.
            match etcd.endpoints().len() {
                1 => std::thread::sleep(Etcd::ELECTION_TIMEOUT),
                _ => _ = etcd.leader_other_than(leader),
            }
            etcd.member(leader).process().resume();
            until("all members", || etcd.is_healthy().then_some(()));
        }
        _ => {
            etcd.kill_all();
            etcd.start_all();
        }
    }
}

fn main() -> ExitCode {
    let of = |count| Arc::new(Cluster(count, OnceLock::new(), AtomicU32::new(0))) as Arc<dyn Factory>;
    lock_conformance::run_each([("one", of(1)), ("three", of(3))])
}
