//! [`Heartbeat`]: heartbeats of a session that a server which is cut off cannot answer.

use std::time::Duration;

use lock_core::{Clock, Moment};
use tokio::sync::Mutex;

use crate::error::{CallError, classify};
use crate::session::ZkSession;

/// The heartbeats of one session.
///
/// The server that a client is connected to answers its pings and readings by itself, also while it is cut off from the
/// leader, which then ends the session. So a heartbeat is a *write*: it is answered when a quorum has it. And also that
/// does not keep the session: the leader does not look at whose write it is, but at the lists of sessions that the
/// servers send it twice in every tick. A list goes the same way as the writes and in their order. So when a write is
/// answered that was sent at least one tick after an earlier heartbeat was answered, the list that has the earlier one
/// arrived before it: the session lasts from the sending of the *earlier* one. Where the client changed servers in
/// between, the new one has told the leader of it, which counts as well.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    tick: Duration,
    /// The latest heartbeat that was answered. Locked while a heartbeat is under way, so that there is one at a time.
    last: Mutex<Option<AnsweredWrite>>,
}

/// A heartbeat that was answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AnsweredWrite {
    /// Read before it left.
    sent: Moment,
    answered: Moment,
}

/// What a heartbeat said.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HeartbeatOutcome {
    /// The session lasts for its time, counted from then.
    AliveSince(Moment),
    /// There is no such session.
    Gone,
}

impl Heartbeat {
    pub(crate) fn new(tick: Duration) -> Heartbeat {
        Heartbeat { tick, last: Mutex::default() }
    }

    /// Another write that was sent then was answered now: it is as good.
    pub(crate) async fn record(&self, clock: &Clock, sent: Moment) {
        *self.last.lock().await = Some(AnsweredWrite { sent, answered: clock.now() });
    }
}

impl ZkSession {
    /// Heartbeats until one is answered that was sent a tick after another, which is one where the last was less than a
    /// tick ago and not sent before `not_before`, and else two.
    pub(crate) async fn heartbeat(
        &self,
        clock: &Clock,
        not_before: Option<Moment>,
    ) -> Result<HeartbeatOutcome, CallError> {
        match self.confirm(clock, not_before).await {
            Err(failed) if failed.session_is_gone => Ok(HeartbeatOutcome::Gone),
            confirmed => confirmed.map(HeartbeatOutcome::AliveSince),
        }
    }

    async fn confirm(&self, clock: &Clock, not_before: Option<Moment>) -> Result<Moment, CallError> {
        let tick = self.heartbeat.tick;
        let mut last = self.heartbeat.last.lock().await;
        let is_recent = |last: &AnsweredWrite| not_before.is_none_or(|not_before| last.sent >= not_before);
        let earlier = match last.filter(is_recent) {
            Some(last) if clock.now().since(last.answered) < tick => last,
            _ => *last.insert(self.write(clock).await?),
        };
        clock.sleep_until(earlier.answered.after(tick)).await;
        *last = Some(self.write(clock).await?);
        Ok(earlier.sent)
    }

    /// One heartbeat.
    async fn write(&self, clock: &Clock) -> Result<AnsweredWrite, CallError> {
        let client = self.client().client()?;
        let sent = clock.now();
        match client.set_data(&self.heartbeat_path, b"", None).await {
            // If somebody deleted the node, a quorum has agreed that it is not there.
            Ok(_) | Err(zookeeper_client::Error::NoNode) => Ok(AnsweredWrite { sent, answered: clock.now() }),
            Err(failure) => Err(classify("renewing", failure, true)),
        }
    }
}
