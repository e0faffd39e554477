//! [`Connections`]: the connections of one runtime.

use std::sync::Arc;

use lock_core::Result;

use crate::acknowledgement::Acknowledgement;
use crate::config::RedisConfig;
use crate::connector::Connector;
use crate::keys::Keys;
use crate::router::Router;
use crate::slot_batcher::SlotBatchers;
use crate::tokens::Tokens;

/// The connections of one runtime. They are read by tasks of that runtime, and so are of no use to
/// another. Each is made when it is first used.
#[derive(Debug)]
pub(crate) struct Connections {
    pub(crate) router: Arc<Router>,
    pub(crate) batchers: SlotBatchers,
    pub(crate) acknowledgement: Option<Acknowledgement>,
}

impl Connections {
    pub(crate) fn new(config: &RedisConfig, connector: &Connector, keys: &Keys, tokens: &Arc<Tokens>) -> Connections {
        let router = Arc::new(Router::new(config, connector));
        Connections {
            batchers: SlotBatchers::new(router.clone(), tokens.clone(), keys.clone()),
            router,
            acknowledgement: Acknowledgement::new(config, connector),
        }
    }

    /// Makes the connections that a renewal in this slot will need.
    pub(crate) async fn warm_up(&self, slot: u16) -> Result<()> {
        let connection = self.router.node(slot).await?.connection().await?;
        match &self.acknowledgement {
            Some(acknowledgement) => acknowledgement.connect(&connection).await,
            None => Ok(()),
        }
    }
}
