//! [`Routed`]: the outcome of a call that was sent to the owner of its slot.

use std::sync::Arc;

use redis::Value;

use crate::connection::Connection;

/// The outcome of a call that was sent to the owner of its slot.
pub(crate) enum Routed {
    /// It ran on this connection.
    Done(Value, Arc<Connection>),
    /// It did not run: the slot migrates, and the keys of the call are on two nodes.
    SlotSplit,
}
