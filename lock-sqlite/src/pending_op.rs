//! [`PendingOp`]: an operation with its caller.

use std::time::{Duration, Instant};

use lock_core::kit::{Priority, ReplyReceiver, ReplySender, reply_channel};
use lock_core::{Error, Result};

use crate::error::OpError;
use crate::ops::Op;
use crate::tables::Tables;

/// A pending operation, with the type of its outcome erased.
pub(crate) trait ErasedOp: Send {
    /// True if the caller still waits for the outcome.
    fn is_wanted(&self) -> bool;

    /// Its place in the queue.
    fn priority(&self) -> Priority;

    /// Time since it was submitted.
    fn age(&self) -> Duration;

    /// True if reading is likely to be enough.
    fn may_read_only(&self) -> bool;

    /// Answers the caller if reading is enough; returns whether it did.
    fn read_only(&mut self, tables: &mut Tables<'_>) -> rusqlite::Result<bool>;

    /// Runs it, and keeps the outcome until [`finish`](ErasedOp::finish).
    fn apply(&mut self, tables: &mut Tables<'_>) -> rusqlite::Result<()>;

    /// Answers the caller, once the transaction is on the disk.
    fn finish(&mut self);

    /// Answers the caller with an error.
    fn fail(&mut self, error: Error);
}

/// An operation with its caller.
pub(crate) struct PendingOp<O: Op> {
    op: O,
    since: Instant,
    outcome: Option<Result<O::Outcome>>,
    /// `None` once it is answered.
    reply: Option<ReplySender<O::Outcome>>,
}

impl<O: Op> PendingOp<O> {
    pub(crate) fn new(op: O) -> (PendingOp<O>, ReplyReceiver<O::Outcome>) {
        let (reply, outcome) = reply_channel();
        (PendingOp { op, since: Instant::now(), outcome: None, reply: Some(reply) }, outcome)
    }

    fn reply(&mut self, outcome: Result<O::Outcome>) {
        if let Some(reply) = self.reply.take() {
            reply.send(outcome);
        }
    }
}

impl<O: Op> ErasedOp for PendingOp<O> {
    fn is_wanted(&self) -> bool {
        self.reply.as_ref().is_some_and(ReplySender::is_wanted)
    }

    fn priority(&self) -> Priority {
        self.op.priority()
    }

    fn age(&self) -> Duration {
        self.since.elapsed()
    }

    fn may_read_only(&self) -> bool {
        self.op.may_read_only()
    }

    fn read_only(&mut self, tables: &mut Tables<'_>) -> rusqlite::Result<bool> {
        match self.op.read_only(tables) {
            Ok(None) => return Ok(false),
            Ok(Some(outcome)) => self.reply(Ok(outcome)),
            Err(OpError::Refused(error)) => self.reply(Err(error)),
            Err(OpError::Sqlite(error)) => return Err(error),
        }
        Ok(true)
    }

    fn apply(&mut self, tables: &mut Tables<'_>) -> rusqlite::Result<()> {
        // Should the thread end before it answers.
        self.reply.iter_mut().for_each(ReplySender::set_sent);
        self.outcome = Some(match self.op.apply(tables) {
            Ok(outcome) => Ok(outcome),
            Err(OpError::Refused(error)) => Err(error),
            Err(OpError::Sqlite(error)) => return Err(error),
        });
        Ok(())
    }

    fn finish(&mut self) {
        if let Some(outcome) = self.outcome.take() {
            self.reply(outcome);
        }
    }

    fn fail(&mut self, error: Error) {
        self.outcome = None;
        self.reply(Err(error));
    }
}
