//! Locks and guards: the interface for users.

pub(crate) mod guard;
pub(crate) mod handle;
pub(crate) mod lock;
#[allow(clippy::module_inception, reason = "each file is named after its type, and this one is `Locks`")]
pub(crate) mod locks;
pub(crate) mod settings;
pub(crate) mod validity;

pub use self::guard::{FencedGuard, Guard, LockGuard};
pub use self::lock::Lock;
pub use self::locks::{FencedLocks, Locks, LocksBuilder};
pub use self::validity::Validity;
