//! [`Message`]: a message to the worker thread of a store.

use tokio::sync::oneshot;

use crate::pending_op::ErasedOp;

/// A message to the worker thread of a store.
pub(crate) enum Message {
    /// Run this operation.
    Op(Box<dyn ErasedOp>),
    /// A waiter needs notifications of changes.
    Waiting,
    /// Nothing more is expected: close the file, and reply here.
    Close(oneshot::Sender<()>),
}
