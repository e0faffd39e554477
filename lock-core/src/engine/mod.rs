//! The engine: one loop that acquires and one task that renews and gives back, for every store.
//!
//! | file | contents |
//! |---|---|
//! | `shared` | [`Engine`]: the state that all locks of one `Locks` share |
//! | `acquire` | the loop that asks, waits and asks again |
//! | `pending` | one claim while it is asked for |
//! | `wait_queue` | waiters of this process, for stores without a queue |
//! | `task` | the background task: renewals, losses, withdrawals |
//! | `timers` | which session is due next |
//! | `renewal_round` | one renewal call, for one batch |
//! | `withdrawal` | giving back what a claim may hold; `withdrawal_state` while it waits |
//! | `call` | a call to the store that owns what it needs |

mod acquire;
mod call;
mod pending;
mod renewal_round;
mod shared;
mod task;
mod timers;
mod wait_queue;
mod withdrawal;
mod withdrawal_state;

use std::sync::Arc;
use std::time::Duration;

pub(crate) use self::acquire::{AcquireRequest, OnWait, Patience, acquire};
pub(crate) use self::pending::Grant;
pub(crate) use self::shared::{Engine, check_call_timeout};
pub(crate) use self::withdrawal::Withdrawal;
use crate::contract::LockStore;
use crate::words::{Clock, HolderInfo};

/// An engine for the locks of this store. Its task starts with the first acquire.
pub(crate) fn new(store: Arc<dyn LockStore>, clock: Clock, call_timeout: Duration, info: HolderInfo) -> Arc<Engine> {
    Engine::new(store, clock, call_timeout, info, task::run)
}
