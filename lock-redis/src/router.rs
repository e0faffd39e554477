//! [`Router`]: the way from a slot to the node that owns it.

use std::sync::Arc;
use std::time::Instant;

use lock_core::{Error, ErrorKind, Result};
use redis::{Cmd, Value};

use crate::cluster::Cluster;
use crate::config::RedisConfig;
use crate::connection::Connection;
use crate::connector::Connector;
use crate::detached::{StartFlag, run_detached};
use crate::error::{self, CallError};
use crate::node::Node;
use crate::routed::Routed;
use crate::script_call::ScriptCall;
use crate::topology::Topology;

/// Sends calls to the node that owns their slot: the only one, or a node of a cluster.
#[derive(Debug)]
pub(crate) enum Router {
    Single(Arc<Node>),
    Cluster(Arc<Cluster>),
}

impl Router {
    pub(crate) fn new(config: &RedisConfig, connector: &Connector) -> Router {
        match &config.topology {
            Topology::Cluster(seeds) => {
                Router::Cluster(Arc::new(Cluster::new(connector.clone(), seeds.clone(), config.response_timeout)))
            }
            _ => Router::Single(Arc::new(Node::new(connector.clone(), config.response_timeout))),
        }
    }

    /// The owner of a slot, as far as it is known here.
    pub(crate) async fn node(&self, slot: u16) -> Result<Arc<Node>> {
        match self {
            Router::Single(node) => Ok(node.clone()),
            Router::Cluster(cluster) => cluster.node(slot).await,
        }
    }

    /// All nodes that own slots.
    pub(crate) async fn all(&self) -> Result<Vec<Arc<Node>>> {
        match self {
            Router::Single(node) => Ok(vec![node.clone()]),
            Router::Cluster(cluster) => cluster.masters().await,
        }
    }

    /// The version of a channel; 0 if it is not subscribed to.
    pub(crate) fn channel_version(&self, slot: u16, channel: &str) -> u64 {
        match self {
            Router::Single(node) => node.channel_version(channel),
            Router::Cluster(cluster) => cluster.owner(slot).map_or(0, |node| node.channel_version(channel)),
        }
    }

    /// Runs a call whose keys are all in this slot, and returns the connection that was used. If a
    /// cluster cannot run it now, since the slot migrates or has no owner, it is retried within the
    /// response time-out.
    ///
    /// It waits for a permit: the calls in flight at a server are bounded in number.
    ///
    /// # Errors
    ///
    /// Unavailable, timed out, denied or a protocol error.
    pub(crate) async fn run(&self, slot: u16, call: ScriptCall) -> Result<(Value, Arc<Connection>)> {
        match self.dispatch(slot, call, false).await? {
            Routed::Done(answer, connection) => Ok((answer, connection)),
            Routed::SlotSplit => Err(Error::refused(ErrorKind::Unavailable, "the keys of a lock are in two places")),
        }
    }

    /// As [`run`](Router::run), for a call of several keys that could be made for each key alone:
    /// it is not retried while its keys are on two nodes.
    ///
    /// # Errors
    ///
    /// As for [`run`](Router::run).
    pub(crate) async fn run_splittable(&self, slot: u16, call: ScriptCall) -> Result<Routed> {
        let may_split = call.key_count > 1;
        self.dispatch(slot, call, may_split).await
    }

    /// As [`run_splittable`](Router::run_splittable), for a holder of the batcher's permit for this
    /// slot, which bounds the calls in flight at a single server. A cluster node has many slots, so
    /// there the call waits for a permit of the node as well. A call that was queued says since
    /// when.
    ///
    /// # Errors
    ///
    /// As for [`run`](Router::run).
    pub(crate) async fn run_with_permit(
        &self,
        slot: u16,
        call: ScriptCall,
        submitted_at: Option<Instant>,
    ) -> Result<Routed> {
        match self {
            Router::Single(node) => single_outcome(node, &call, node.run(&call, submitted_at).await),
            Router::Cluster(_) => Box::pin(self.run_splittable(slot, call)).await,
        }
    }

    async fn dispatch(&self, slot: u16, call: ScriptCall, may_split: bool) -> Result<Routed> {
        let (action, started) = (call.script.action(), StartFlag::default());
        match self {
            Router::Single(node) => {
                let (node, flag) = (node.clone(), started.clone());
                let work = async move { single_outcome(&node, &call, node.run_bounded(&call, false, &flag).await) };
                run_detached(action, started, work).await
            }
            Router::Cluster(cluster) => {
                let (cluster, flag) = (cluster.clone(), started.clone());
                run_detached(action, started, async move { cluster.run(slot, &call, may_split, &flag).await }).await
            }
        }
    }

    /// Runs a plain command on a node.
    pub(crate) async fn command(node: &Arc<Node>, action: &'static str, command: &Cmd) -> Result<Value> {
        node.command(action, command).await.map_err(|failure| node.error(action, failure))
    }
}

/// The outcome of a call to a single server.
fn single_outcome(
    node: &Node,
    call: &ScriptCall,
    outcome: Result<(Value, Arc<Connection>), CallError>,
) -> Result<Routed> {
    match outcome {
        Ok((answer, connection)) => Ok(Routed::Done(answer, connection)),
        Err(CallError::Redis(error)) if error::is_cluster_reply(&error) => {
            Err(Error::invalid_config(node.connector().endpoint().cluster_hint(node.name())))
        }
        Err(failure) => Err(node.error(call.script.action(), failure)),
    }
}
