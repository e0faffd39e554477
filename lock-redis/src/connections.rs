//! [`Connections`]: what one runtime of this process has to do with the servers.

use std::sync::Arc;

use lock_core::Result;

use crate::RedisConfig;
use crate::acknowledgement::Acknowledgement;
use crate::dial::Dial;
use crate::keys::Keys;
use crate::lanes::Lanes;
use crate::servers::Servers;
use crate::tokens::Tokens;

/// What one runtime of this process has to do with the servers. Its connections are read by tasks of that runtime, and so
/// are of use to no other. They are made when they are first used.
#[derive(Debug)]
pub(crate) struct Connections {
    pub(crate) servers: Arc<Servers>,
    pub(crate) lanes: Arc<Lanes>,
    pub(crate) acknowledgement: Option<Acknowledgement>,
}

impl Connections {
    pub(crate) fn new(config: &RedisConfig, dial: &Dial, keys: &Keys, tokens: &Arc<Tokens>) -> Connections {
        let servers = Arc::new(Servers::new(config, dial));
        Connections {
            lanes: Lanes::new(servers.clone(), tokens.clone(), keys.clone()),
            servers,
            acknowledgement: Acknowledgement::new(config, dial),
        }
    }

    /// Connects to what a renewal in this slot needs, before there is one.
    pub(crate) async fn warm_up(&self, slot: u16) -> Result<()> {
        let connection = self.servers.link(slot).await?.connection().await?;
        match &self.acknowledgement {
            Some(acknowledgement) => acknowledgement.connect(&connection).await,
            None => Ok(()),
        }
    }
}
