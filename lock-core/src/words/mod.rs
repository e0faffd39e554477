//! The words of the field: names, holders, tokens, guarantees, errors, the clock. They depend on no
//! other floor.

pub(crate) mod clock;
pub(crate) mod error;
pub(crate) mod guarantees;
pub(crate) mod held_by;
pub(crate) mod holder;
pub(crate) mod name;
pub mod random;
pub(crate) mod token;

pub use self::clock::{Clock, Moment, Suspender};
pub use self::error::{Effect, Error, ErrorKind, LossReason, Result};
pub use self::guarantees::{ClockKind, Expiry, Fault, Faults, Guarantees, Shortfall, WaitStyle};
pub use self::held_by::HeldBy;
pub use self::holder::{Holder, HolderInfo, ParseHolderError};
pub use self::name::LockName;
pub use self::token::{FencingToken, Realm};
