//! The Lock RPC, all locks of a client on one lease.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Client, Compare, CompareOp, LockOptions, PutOptions, Txn, TxnOp};

use super::{Bare, Result};

pub(crate) struct Etcd {
    client: Client,
    lease: i64,
    asked: Mutex<HashSet<String>>,
}

impl Etcd {
    pub(crate) async fn connect(address: &str, ttl: Duration) -> Result<Etcd> {
        let client = Client::connect([address], None).await?;
        let lease = client.lease_client().grant(ttl.as_secs() as i64, None).await?.id();
        let (mut keeper, mut answers) = client.lease_client().keep_alive(lease).await?;
        tokio::spawn(async move {
            while keeper.keep_alive().await.is_ok() && answers.message().await.is_ok() {
                tokio::time::sleep(ttl / 3).await;
            }
        });
        Ok(Etcd { client, lease, asked: Mutex::default() })
    }
}

#[async_trait]
impl Bare for Etcd {
    async fn acquire(&self, name: &str, _: Duration) -> Result<String> {
        let is_first = self.asked.lock().unwrap().insert(name.to_owned());
        let lease = match is_first {
            true => self.lease,
            // A lease has one place in a line.
            false => self.client.lease_client().grant(180, None).await?.id(),
        };
        let answer = self.client.lock_client().lock(name, Some(LockOptions::new().with_lease(lease))).await?;
        Ok(String::from_utf8(answer.key().to_vec())?)
    }

    async fn take(&self, name: &str, _: Duration) -> Result<Option<String>> {
        let absent = Compare::create_revision(name, CompareOp::Equal, 0);
        let put = TxnOp::put(name, "holder", Some(PutOptions::new().with_lease(self.lease)));
        let answer = self.client.kv_client().txn(Txn::new().when([absent]).and_then([put])).await?;
        Ok(answer.succeeded().then(|| name.to_owned()))
    }

    async fn renew(&self, _: &[String], _: Duration) -> Result<()> {
        Ok(())
    }

    async fn release(&self, key: &str) -> Result<bool> {
        Ok(self.client.kv_client().delete(key, None).await?.deleted() == 1)
    }
}
