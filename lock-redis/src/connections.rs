//! [`Connections`]: what one runtime of this process has to do with the servers.

use std::sync::Arc;

use lock_core::Result;

use crate::acknowledgement::Acknowledgement;
use crate::batcher::Batcher;
use crate::config::RedisConfig;
use crate::connector::Connector;
use crate::keys::Keys;
use crate::router::Router;
use crate::tokens::Tokens;

/// What one runtime of this process has to do with the servers. Its connections are read by tasks of that runtime, and so
/// are of use to no other. They are made when they are first used.
#[derive(Debug)]
pub(crate) struct Connections {
    pub(crate) router: Arc<Router>,
    pub(crate) batcher: Arc<Batcher>,
    pub(crate) acknowledgement: Option<Acknowledgement>,
}

impl Connections {
    pub(crate) fn new(config: &RedisConfig, connector: &Connector, keys: &Keys, tokens: &Arc<Tokens>) -> Connections {
        let router = Arc::new(Router::new(config, connector));
        Connections {
            batcher: Batcher::new(router.clone(), tokens.clone(), keys.clone()),
            router,
            acknowledgement: Acknowledgement::new(config, connector),
        }
    }

    /// Connects to what a renewal in this slot needs, before there is one.
    pub(crate) async fn warm_up(&self, slot: u16) -> Result<()> {
        let connection = self.router.node(slot).await?.connection().await?;
        match &self.acknowledgement {
            Some(acknowledgement) => acknowledgement.connect(&connection).await,
            None => Ok(()),
        }
    }
}
