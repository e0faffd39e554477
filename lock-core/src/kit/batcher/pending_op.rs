//! [`PendingOp`]: an operation with its caller.

use std::time::Instant;

use tokio::runtime::Handle;

use super::reply::{ReplyReceiver, ReplySender, reply_channel};

/// An operation with its caller.
#[derive(Debug)]
pub struct PendingOp<Op, Reply> {
    /// The operation.
    pub op: Op,
    /// Answers its caller.
    pub reply: ReplySender<Reply>,
    /// When it came.
    pub submitted_at: Instant,
    /// The runtime of its caller.
    pub(super) runtime: Handle,
}

impl<Op, Reply> PendingOp<Op, Reply> {
    pub(super) fn new(op: Op, runtime: &Handle) -> (PendingOp<Op, Reply>, ReplyReceiver<Reply>) {
        let (reply, received) = reply_channel();
        (PendingOp { op, reply, submitted_at: Instant::now(), runtime: runtime.clone() }, received)
    }
}
