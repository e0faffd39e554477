//! The client's own recipe, all locks of a client on one session.

use std::time::Duration;

use async_trait::async_trait;
use zookeeper_client::{Acls, Client, CreateMode, Error, LockOptions, LockPrefix};

use super::{Bare, Result};

pub(crate) struct Zk(Client);

impl Zk {
    pub(crate) async fn connect(address: &str, ttl: Duration) -> Result<Zk> {
        Ok(Zk(Client::connector().with_session_timeout(ttl).connect(address).await?))
    }
}

#[async_trait]
impl Bare for Zk {
    async fn acquire(&self, name: &str, _: Duration) -> Result<String> {
        let parents = CreateMode::Container.with_acls(Acls::anyone_all());
        let options = LockOptions::new(Acls::anyone_all()).with_ancestor_options(parents)?;
        let folder = format!("/bare/{name}");
        let prefix = LockPrefix::new_curator(&folder, "lock-")?;
        let lock = self.0.lock(prefix, b"holder", options).await?;
        let path = lock.lock_path().to_owned();
        // It would delete its node when it is dropped; that is done by `release`, which is awaited.
        std::mem::forget(lock);
        Ok(path)
    }

    async fn take(&self, name: &str, _: Duration) -> Result<Option<String>> {
        let path = format!("/{name}");
        match self.0.create(&path, b"holder", &CreateMode::Ephemeral.with_acls(Acls::anyone_all())).await {
            Ok(_) => Ok(Some(path)),
            Err(Error::NodeExists) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn renew(&self, _: &[String], _: Duration) -> Result<()> {
        Ok(())
    }

    async fn release(&self, key: &str) -> Result<bool> {
        match self.0.delete(key, None).await {
            Ok(()) => Ok(true),
            Err(Error::NoNode) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
