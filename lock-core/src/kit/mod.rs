//! A kit for authors of stores: what several stores need and would otherwise each write by hand.
//!
//! It is less stable than the contract. A store need not use any of it.

pub(crate) mod batcher;
pub(crate) mod sessions;
pub(crate) mod single_flight;

pub use self::batcher::{
    BatchExecutor, Batcher, OpQueue, PendingOp, Permit, Priority, ReplyReceiver, ReplySender, Submission, Taken,
    reply_channel,
};
pub use self::sessions::{Heartbeat, SessionBackend, SessionHandle, Sessions};
pub use self::single_flight::SingleFlight;
pub use crate::sync::locked;
