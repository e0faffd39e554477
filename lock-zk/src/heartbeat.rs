//! [`Heartbeat`]: a heartbeat that a server which is cut off cannot answer.

use std::time::Duration;

use lock_core::{Clock, Moment};
use tokio::sync::Mutex;
use zookeeper_client::{Acls, CreateMode, Error as ZkError};

use crate::error::{CallError, classify};
use crate::nodes::make_container;
use crate::session_client::SessionClient;

/// The heartbeat of one session.
///
/// The server that a client is connected to answers its pings and reads by itself, also while it is
/// cut off from the leader, which then ends the session. So a heartbeat is a *write*: it is
/// answered when a quorum has it. Even that does not keep the session: the leader does not consider
/// whose write it is, but the lists of sessions that the servers send it twice in every tick. A
/// list goes the same way as the writes and in their order. So when a write is answered that was
/// sent at least one tick after an earlier heartbeat was answered, the list with the earlier one
/// arrived before it: the session lasts from the sending of the *earlier* one. If the client
/// changed servers in between, the new server has reported the session to the leader, which counts
/// as well.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    /// The path of the session's own node, to which its heartbeats are written.
    node: String,
    tick: Duration,
    /// The latest heartbeat that was answered. Locked during a heartbeat, so that there is one at a
    /// time.
    last: Mutex<Option<AnsweredWrite>>,
}

/// The times of a heartbeat that was answered.
#[derive(Clone, Copy, Debug)]
struct AnsweredWrite {
    /// Read before the request was sent.
    sent: Moment,
    answered: Moment,
}

/// The outcome of a heartbeat.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HeartbeatOutcome {
    /// The session lasts for its TTL from this moment.
    AliveSince(Moment),
    /// The server has no such session.
    Gone,
}

impl Heartbeat {
    pub(crate) fn new(node: String, tick: Duration) -> Heartbeat {
        Heartbeat { node, tick, last: Mutex::default() }
    }

    /// Makes the session's own node below `parent`, which is its first heartbeat; gives the
    /// transaction.
    pub(crate) async fn create_node(
        &self,
        clock: &Clock,
        client: &SessionClient,
        parent: &str,
        acls: Acls<'static>,
    ) -> Result<i64, CallError> {
        let client = client.client()?;
        let mode = CreateMode::Ephemeral.with_acls(acls);
        let sent = clock.now();
        let mut created = client.create(&self.node, b"", &mode).await;
        if created == Err(ZkError::NoNode) {
            make_container(&client, parent, acls).await?;
            created = client.create(&self.node, b"", &mode).await;
        }
        let (stat, _) = created.map_err(|failure| classify("opening a session of ZooKeeper", failure, false))?;
        *self.last.lock().await = Some(AnsweredWrite { sent, answered: clock.now() });
        Ok(stat.czxid)
    }

    /// Sends heartbeats until one is answered that was sent a tick after another one was answered.
    ///
    /// That is one heartbeat if the last was answered less than a tick ago and not sent before
    /// `not_before`; else two.
    pub(crate) async fn confirm(
        &self,
        clock: &Clock,
        client: &SessionClient,
        not_before: Option<Moment>,
    ) -> Result<HeartbeatOutcome, CallError> {
        match self.alive_since(clock, client, not_before).await {
            Err(failed) if failed.session_is_gone => Ok(HeartbeatOutcome::Gone),
            since => since.map(HeartbeatOutcome::AliveSince),
        }
    }

    async fn alive_since(
        &self,
        clock: &Clock,
        client: &SessionClient,
        not_before: Option<Moment>,
    ) -> Result<Moment, CallError> {
        let mut last = self.last.lock().await;
        let is_recent = |last: &AnsweredWrite| not_before.is_none_or(|not_before| last.sent >= not_before);
        let earlier = match last.filter(is_recent) {
            Some(last) if clock.now().since(last.answered) < self.tick => last,
            _ => *last.insert(self.write(clock, client).await?),
        };
        clock.sleep_until(earlier.answered.after(self.tick)).await;
        *last = Some(self.write(clock, client).await?);
        Ok(earlier.sent)
    }

    /// Sends one heartbeat.
    async fn write(&self, clock: &Clock, client: &SessionClient) -> Result<AnsweredWrite, CallError> {
        let client = client.client()?;
        let sent = clock.now();
        match client.set_data(&self.node, b"", None).await {
            // If somebody deleted the node, a quorum has agreed that it is not there.
            Ok(_) | Err(ZkError::NoNode) => Ok(AnsweredWrite { sent, answered: clock.now() }),
            Err(failure) => Err(classify("renewing", failure, true)),
        }
    }
}
