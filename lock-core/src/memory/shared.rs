//! [`Memory`]: what the clones of a [`MemoryStore`](super::MemoryStore) share.

use std::sync::Mutex;

use super::state::State;
use crate::kit::Sessions;
use crate::words::{Clock, Realm};

/// What the clones of a store share.
///
/// Lock order: `state`, then `realm`.
pub(super) struct Memory {
    pub(super) clock: Clock,
    pub(super) realm: Mutex<Realm>,
    pub(super) state: Mutex<State>,
    /// The sessions, if sessions carry the leases.
    pub(super) sessions: Option<Sessions<Memory>>,
}
