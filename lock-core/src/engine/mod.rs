//! The engine: one loop that acquires, and one task that renews and withdraws, for every store.
//!
//! | file | contents |
//! |---|---|
//! | `shared` | [`Engine`]: state that all locks of one `Locks` share |
//! | `acquire` | the loop of requests and waits |
//! | `pending` | one claim while it is requested |
//! | `wait_queue` | waiters of this process, for stores without a queue |
//! | `task` | the background task: renewals, losses, withdrawals |
//! | `timers` | the order in which sessions are due |
//! | `renewal_round` | one renewal call, for one batch |
//! | `withdrawal` | releasing whatever a claim may hold; `withdrawal_state`: a withdrawal that waits for the task |
//! | `call` | a call to the store that owns its data |

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
pub(crate) use self::call::catch_panic;
pub(crate) use self::pending::Grant;
pub(crate) use self::shared::{Engine, check_call_timeout};
pub(crate) use self::withdrawal::Withdrawal;
use crate::contract::LockStore;
use crate::words::{Clock, HolderInfo};

/// Makes the engine for the locks of this store. Its task starts with the first acquire.
pub(crate) fn new(store: Arc<dyn LockStore>, clock: Clock, call_timeout: Duration, info: HolderInfo) -> Arc<Engine> {
    Engine::new(store, clock, call_timeout, info, task::run)
}
