//! [`LockConnection`]: the handle of one connection that has advisory locks.

use std::sync::Arc;
use std::time::Duration;

use lock_core::{Claim, Error, ErrorKind, Holder, LossReason, Result, Session};
use tokio::sync::{mpsc, oneshot};

use super::command::{Acquisition, Command, HeldHere};
use super::statements::AdvisoryStatements;
use super::task::Task;
use crate::connection::Connection;
use crate::key::AdvisoryKey;

/// One connection that has advisory locks. It belongs to a task of its own, which runs one
/// statement at a time: a caller that is cancelled aborts none.
///
/// In doubt about a statement the connection is closed, and every lease of its session is lost: the
/// server frees its locks.
#[derive(Clone, Debug)]
pub(super) struct LockConnection {
    /// The session whose leases it carries.
    pub(super) session: Session,
    commands: mpsc::UnboundedSender<Command>,
}

impl LockConnection {
    /// Starts the task of a new connection.
    pub(super) fn start(
        connection: Connection,
        statements: Arc<AdvisoryStatements>,
        limit: Duration,
        session: Session,
        ends_with_session: bool,
    ) -> LockConnection {
        let (commands, inbox) = mpsc::unbounded_channel();
        let end_session = EndOnDrop(session.clone());
        let task = Task::new(connection, statements, limit, session.clone(), ends_with_session);
        // On the runtime that made the connection, which is the one in the background.
        tokio::spawn(async move {
            // Dropped with the runtime too.
            let _end_session = end_session;
            task.run(inbox).await;
        });
        LockConnection { session, commands }
    }

    /// True if the task still runs, so that the connection may be alive.
    pub(super) fn is_open(&self) -> bool {
        !self.commands.is_closed()
    }

    /// Requests a lock. `None`: the connection has ended, and has no locks.
    pub(super) async fn acquire(&self, claim: &Claim, key: AdvisoryKey) -> Option<Result<Acquisition>> {
        self.call(|reply| Command::Acquire(claim.clone(), key, reply)).await
    }

    /// Releases the lock of this holder; returns whether it had one.
    pub(super) async fn release(&self, holder: Holder) -> Option<Result<bool>> {
        self.call(|reply| Command::Release(holder, reply)).await
    }

    /// The holders that still have their locks on this connection.
    pub(super) async fn heartbeat(&self) -> Option<Result<HeldHere>> {
        self.call(Command::Heartbeat).await
    }

    async fn call<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (sender, reply) = oneshot::channel();
        self.commands.send(command(sender)).ok()?;
        reply.await.ok()
    }
}

/// Ends the session when the task ends, in whatever way.
struct EndOnDrop(Session);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end(LossReason::SessionEnded);
    }
}

/// True if the connection broke: then the server frees its locks, and the task runs nothing more on
/// it.
pub(super) fn is_connection_lost(error: &Error) -> bool {
    error.may_have_taken_effect() && error.kind() == ErrorKind::Unavailable
}
