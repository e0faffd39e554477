//! A kit for authors of stores: what several stores need and would otherwise each write by hand.
//!
//! It is less stable than the contract. A store need not use any of it.

pub(crate) mod address;
pub(crate) mod batcher;
pub(crate) mod duration;
pub(crate) mod holder_record;
pub(crate) mod name_encoding;
pub(crate) mod sessions;
pub(crate) mod single_flight;

pub use self::address::host_and_port;
pub use self::batcher::{
    BatchExecutor, Batcher, OpQueue, PendingOp, Permit, Priority, ReplyReceiver, ReplySender, Submission, Taken,
    reply_channel,
};
pub use self::duration::{TIMEOUT_RANGE, check_duration};
pub use self::holder_record::{HolderRecord, unix_seconds};
pub use self::name_encoding::{decode_name, encode_name};
pub use self::sessions::{Heartbeat, SessionBackend, SessionHandle, Sessions};
pub use self::single_flight::SingleFlight;
pub use crate::sync::locked;
