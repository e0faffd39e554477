//! [`Command`]: a message to the task of a connection that has advisory locks.

use lock_core::{Claim, Holder, Realm, Result};
use tokio::sync::oneshot;

use crate::key::AdvisoryKey;
use crate::row::Row;

/// A message to the task of a connection, with the channel for its reply.
pub(super) enum Command {
    Acquire(Claim, AdvisoryKey, oneshot::Sender<Result<Acquisition>>),
    Release(Holder, oneshot::Sender<Result<bool>>),
    Heartbeat(oneshot::Sender<Result<HeldHere>>),
}

/// The outcome of a request for a lock.
#[derive(Clone, Debug)]
pub(super) enum Acquisition {
    /// This connection has the lock, with this row.
    Granted(Row, Realm),
    /// Another holder has it.
    Held,
}

/// The holders that a heartbeat found on its connection.
#[derive(Debug)]
pub(super) struct HeldHere(pub(super) Vec<Holder>);
