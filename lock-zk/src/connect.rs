//! Connecting: the ensemble and its realm are checked before a store is there.

use std::sync::Arc;

use lock_core::kit::Sessions;
use lock_core::{Clock, Error, Result};
use zookeeper_client::{Client, Error as ZkError};

use crate::acl::node_acls;
use crate::config::ZkConfig;
use crate::error::{CallError, classify};
use crate::factory::SessionFactory;
use crate::layout::Layout;
use crate::opener::SessionOpener;
use crate::realm::RealmNode;
use crate::store::ZkStore;

impl ZkStore {
    /// Connects, and checks the servers and their realm. Sessions are stamped with `clock`: the
    /// locks must use the same one.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](lock_core::ErrorKind::InvalidConfig),
    /// [`Unavailable`](lock_core::ErrorKind::Unavailable),
    /// [`TimedOut`](lock_core::ErrorKind::TimedOut), [`Denied`](lock_core::ErrorKind::Denied) or
    /// [`Protocol`](lock_core::ErrorKind::Protocol).
    ///
    /// # Cancel safety
    ///
    /// It leaves at most the node of the realm, which the next call finds.
    pub async fn connect(config: ZkConfig, clock: &Clock) -> Result<ZkStore> {
        let layout = Layout::new(&config.prefix)?;
        let has_login = config.login.is_some();
        let opener = SessionOpener::new(config, clock, RealmNode::new(&layout))?;
        let tick = opener.measure_tick().await?;
        let reader = opener.reader().await?;
        let client = &reader.client()?;
        let acls = node_acls(client, has_login, &layout).await?;
        let voters = count_voters(client).await.map_err(Error::from)?;
        // Renewals need this request; servers before 3.6 do not have it.
        client.list_ephemerals(layout.base()).await.map_err(|failure| classify("connecting", failure, false))?;
        opener.realm_node().load_or_create(client, layout.base(), acls).await?;
        opener.check_one_ensemble().await?;
        let factory = Arc::new(SessionFactory::new(opener.clone(), tick, layout.clone(), acls));
        Ok(ZkStore { layout, clock: clock.clone(), opener, factory, sessions: Sessions::new(), voters, acls })
    }
}

/// The number of voting servers.
pub(crate) async fn count_voters(client: &Client) -> Result<usize, CallError> {
    let (config, _) = match client.get_config().await {
        Err(ZkError::NoNode | ZkError::NoAuth) => return Ok(1),
        config => config.map_err(|failure| classify("reading the ensemble", failure, false))?,
    };
    let config = String::from_utf8_lossy(&config);
    let voters = config.lines().filter(|line| line.starts_with("server.") && !line.contains(":observer")).count();
    Ok(voters.max(1))
}
