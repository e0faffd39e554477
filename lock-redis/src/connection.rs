//! [`Connection`]: one open connection.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use lock_core::Retention;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, RedisError, Value};

use crate::endpoint::Endpoint;
use crate::subscriptions::Subscriptions;

/// One open connection, multiplexed by the client crate.
pub(crate) struct Connection {
    redis: MultiplexedConnection,
    /// The server that was reached; sentinels may name another one later.
    pub(crate) endpoint: Endpoint,
    pub(crate) subscriptions: Arc<Subscriptions>,
    /// The server's retention, and when it was read.
    retention: OnceLock<(Retention, Instant)>,
}

impl Connection {
    pub(crate) fn new(
        redis: MultiplexedConnection,
        endpoint: Endpoint,
        subscriptions: Arc<Subscriptions>,
    ) -> Connection {
        Connection { redis, endpoint, subscriptions, retention: OnceLock::new() }
    }

    /// A handle of the client crate, which shares this connection.
    pub(crate) fn redis(&self) -> MultiplexedConnection {
        self.redis.clone()
    }

    /// Notes the server's retention as of now.
    pub(crate) fn set_retention(&self, retention: Retention) {
        let _ = self.retention.set((retention, Instant::now()));
    }

    /// Retention of the server for a call sent over this connection at this moment. It is read
    /// once, when the connection is made, which is enough: a restarted server has another
    /// connection.
    pub(crate) fn retention_at(&self, sent: Instant) -> Retention {
        match self.retention.get() {
            Some((Retention::Complete, _)) => Retention::Complete,
            Some((Retention::Since(time), known)) => Retention::Since(*time + sent.saturating_duration_since(*known)),
            None => Retention::Since(Duration::ZERO),
        }
    }

    pub(crate) async fn send(&self, command: &Cmd) -> Result<Value, RedisError> {
        self.redis().send_packed_command(command).await?.extract_error()
    }

    /// Sends a command after `ASKING`, to the cluster node to which the slot migrates.
    pub(crate) async fn send_asking(&self, command: &Cmd) -> Result<Value, RedisError> {
        let mut both = redis::pipe();
        both.cmd("ASKING").add_command(command.clone());
        let answers: (Value, Value) = both.query_async(&mut self.redis()).await?;
        Ok(answers.1)
    }

    /// Sends commands in one round trip; an error stands in the place of its answer.
    pub(crate) async fn send_pipeline(&self, pipeline: &Pipeline) -> Result<Vec<Value>, RedisError> {
        self.redis().send_packed_commands(pipeline, 0, pipeline.len()).await
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.subscriptions.close();
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("subscriptions", &self.subscriptions).finish_non_exhaustive()
    }
}
