//! `SET NX PX`, asked again every tenth of a second.

use std::time::Duration;

use async_trait::async_trait;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;

use super::{Bare, Result};

pub(crate) struct Redis(MultiplexedConnection);

impl Redis {
    pub(crate) async fn connect(url: &str) -> Result<Redis> {
        let patient = AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(60)));
        let client = redis::Client::open(url)?;
        Ok(Redis(client.get_multiplexed_async_connection_with_config(&patient).await?))
    }
}

#[async_trait]
impl Bare for Redis {
    async fn acquire(&self, name: &str, ttl: Duration) -> Result<String> {
        loop {
            if let Some(key) = self.take(name, ttl).await? {
                return Ok(key);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn take(&self, name: &str, ttl: Duration) -> Result<Option<String>> {
        let mut set = redis::cmd("SET");
        set.arg(name).arg("holder").arg("NX").arg("PX").arg(ttl.as_millis() as u64);
        let set: Option<String> = set.query_async(&mut self.0.clone()).await?;
        Ok(set.map(|_| name.to_owned()))
    }

    async fn renew(&self, keys: &[String], ttl: Duration) -> Result<()> {
        for some in keys.chunks(512) {
            let mut pipe = redis::pipe();
            for key in some {
                pipe.cmd("PEXPIRE").arg(key).arg(ttl.as_millis() as u64).ignore();
            }
            let () = pipe.query_async(&mut self.0.clone()).await?;
        }
        Ok(())
    }

    async fn release(&self, key: &str) -> Result<bool> {
        let deleted: u32 = redis::cmd("DEL").arg(key).query_async(&mut self.0.clone()).await?;
        Ok(deleted == 1)
    }
}
