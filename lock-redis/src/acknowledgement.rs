//! [`Acknowledgement`]: that replicas have what was written.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lock_core::Result;
use redis::Value;

use crate::dial::Dial;
use crate::link::{Connection, Link};
use crate::servers::Servers;
use crate::{RedisConfig, error};

/// That replicas have what was written. It is asked for on connections of its own: the server answers nothing else on a
/// connection that waits for its replicas.
#[derive(Debug)]
pub(crate) struct Acknowledgement {
    wanted: u32,
    limit: Duration,
    response_timeout: Duration,
    dial: Dial,
    links: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Link>>>>,
}

impl Acknowledgement {
    /// # Errors
    ///
    /// Invalid configuration if the certificates cannot be read.
    pub(crate) fn new(config: &RedisConfig) -> Result<Acknowledgement> {
        Ok(Acknowledgement {
            wanted: config.wait,
            limit: config.wait_timeout,
            response_timeout: config.response_timeout,
            dial: Dial::new(config)?,
            links: Mutex::default(),
        })
    }

    pub(crate) fn wanted(&self) -> u32 {
        self.wanted
    }

    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }

    /// How many replicas have what the server of this connection had written when it was asked; never more than are wanted matter.
    ///
    /// # Errors
    ///
    /// As for a step.
    pub(crate) async fn ask(&self, granted_on: &Connection, key: &str) -> Result<u32> {
        const DOING: &str = "waiting for replicas";
        let link = {
            let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
            let own = || {
                let dial = self.dial.with(granted_on.to.clone());
                Arc::new(tokio::sync::Mutex::new(Link::new(dial, self.response_timeout + self.limit)))
            };
            links.entry(granted_on.to.to_string()).or_insert_with(own).clone()
        };
        let link = link.lock().await;
        // The server waits for what this connection wrote last, and what was written before.
        let mut write = redis::cmd("SET");
        write.arg(key).arg("").arg("PX").arg(1_000);
        Servers::command(&link, DOING, &write).await?;
        let mut wait = redis::cmd("WAIT");
        wait.arg(self.wanted).arg(self.limit.as_millis().max(1) as u64);
        match Servers::command(&link, DOING, &wait).await? {
            Value::Int(replicas) => Ok(u32::try_from(replicas).unwrap_or(0)),
            _ => Err(error::odd(link.name(), DOING)),
        }
    }
}
