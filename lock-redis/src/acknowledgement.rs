//! [`Acknowledgement`]: waits until replicas have what was written (`WAIT`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lock_core::Result;
use lock_core::kit::{BatchExecutor, Batcher, PendingOp, Priority};
use redis::{Pipeline, Value};

use crate::config::RedisConfig;
use crate::connection::Connection;
use crate::connector::Connector;
use crate::endpoint::Endpoint;
use crate::error;
use crate::node::Node;

/// Waits until replicas have what was written (`WAIT`). It has connections of its own, since a
/// server answers nothing else on a connection that waits.
///
/// One `WAIT` covers all that was written before it. Callers that arrive during one share the next,
/// and so wait for two of them at most, however many there are.
#[derive(Debug)]
pub(crate) struct Acknowledgement {
    required: u32,
    timeout: Duration,
    response_timeout: Duration,
    connector: Connector,
    /// By address.
    servers: Mutex<HashMap<String, Arc<ServerAcks>>>,
}

/// The acknowledgements of one server.
#[derive(Debug)]
struct ServerAcks {
    node: Arc<Node>,
    /// By the key of the marker that is written.
    batcher: Batcher<String, u32>,
    required: u32,
    timeout: Duration,
}

/// Writes the marker. `WAIT` covers the last write of its own connection, which must be one that
/// goes to replicas. The `DEL` comes first because a server without memory refuses a `SET` except
/// after a write that cannot take more.
const WRITE_MARKER: &str = "redis.call('DEL', KEYS[1]) return redis.call('SET', KEYS[1], '', 'PX', 1000)";

impl Acknowledgement {
    /// `None` if no replica has to acknowledge.
    pub(crate) fn new(config: &RedisConfig, connector: &Connector) -> Option<Acknowledgement> {
        (config.wait > 0).then(|| Acknowledgement {
            required: config.wait,
            timeout: config.wait_timeout,
            response_timeout: config.response_timeout,
            connector: connector.clone(),
            servers: Mutex::default(),
        })
    }

    /// Number of replicas that must acknowledge.
    pub(crate) fn required(&self) -> u32 {
        self.required
    }

    /// Time limit for the acknowledgement.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    fn server(&self, endpoint: &Endpoint) -> Arc<ServerAcks> {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            let node =
                Node::for_commands(self.connector.for_endpoint(endpoint.clone()), self.response_timeout + self.timeout);
            // One `WAIT` serves any number of callers.
            let (node, batcher) = (Arc::new(node), Batcher::new("redis", usize::MAX));
            Arc::new(ServerAcks { node, batcher, required: self.required, timeout: self.timeout })
        };
        servers.entry(endpoint.to_string()).or_insert_with(new).clone()
    }

    /// Connects to the server that this connection leads to.
    ///
    /// # Errors
    ///
    /// As for connecting.
    pub(crate) async fn connect(&self, granted_on: &Connection) -> Result<()> {
        self.server(&granted_on.endpoint).node.connection().await.map(drop)
    }

    /// Number of replicas that acknowledge everything written before this call; the wait ends at
    /// the required number.
    ///
    /// # Errors
    ///
    /// As for a call.
    pub(crate) async fn count(&self, granted_on: &Connection, key: String) -> Result<u32> {
        Batcher::run(&self.server(&granted_on.endpoint), key, Priority::Normal).await
    }
}

impl BatchExecutor for ServerAcks {
    type Op = String;
    type Reply = u32;

    fn batcher(&self) -> &Batcher<String, u32> {
        &self.batcher
    }

    async fn execute(self: Arc<Self>, batch: Vec<PendingOp<String, u32>>) {
        let (keys, replies): (Vec<_>, Vec<_>) = batch.into_iter().map(|pending| (pending.op, pending.reply)).unzip();
        let answers = self.wait_for_all(keys).await;
        replies.into_iter().zip(answers).for_each(|(reply, answer)| reply.send(answer));
    }
}

impl ServerAcks {
    /// One acknowledgement for all these keys. The marker has the first key whose slot is still on
    /// this server.
    async fn wait_for_all(&self, keys: Vec<String>) -> Vec<Result<u32>> {
        let mut answers = Vec::with_capacity(keys.len());
        for key in &keys {
            let answer = self.wait_with_key(key).await;
            let has_moved = matches!(&answer, Err((_, true)));
            let answer = answer.map_err(|(error, _)| error);
            if has_moved {
                answers.push(answer);
                continue;
            }
            answers.resize(keys.len(), answer);
            break;
        }
        answers
    }

    /// One acknowledgement. The flag of a failure is true if the key's slot has moved away.
    async fn wait_with_key(&self, key: &str) -> Result<u32, (lock_core::Error, bool)> {
        const ACTION: &str = "waiting for replicas";
        let answers = self.node.commands_or_error(ACTION, &self.pipeline(key)).await.map_err(|failure| {
            let has_moved = failure.redirection().is_some();
            (self.node.error(ACTION, failure), has_moved)
        })?;
        match answers.last() {
            Some(Value::Int(replicas)) => Ok(u32::try_from(*replicas).unwrap_or(0)),
            _ => Err((error::unexpected_reply(self.node.name(), ACTION), false)),
        }
    }

    fn pipeline(&self, key: &str) -> Pipeline {
        let mut pipeline = redis::pipe();
        pipeline.cmd("EVAL").arg(WRITE_MARKER).arg(1).arg(key);
        pipeline.cmd("WAIT").arg(self.required).arg(self.timeout.as_millis().max(1) as u64);
        pipeline
    }
}
