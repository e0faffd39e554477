//! The words of the field: names, holders, tokens, guarantees, errors, the clock. They depend on no
//! other floor.

pub(crate) mod clock;
pub(crate) mod error;
pub(crate) mod fault;
pub(crate) mod guarantees;
pub(crate) mod held_by;
pub(crate) mod holder;
pub(crate) mod name;
pub(crate) mod offer;
pub mod random;
mod set;
pub(crate) mod share;
pub(crate) mod token;

pub use self::clock::{Clock, Moment, Suspender};
pub use self::error::{Effect, Error, ErrorKind, LossReason, Result};
pub use self::fault::{Fault, Faults};
pub use self::guarantees::{ClockKind, Expiry, Guarantees, Shortfall, WaitStyle};
pub use self::held_by::HeldBy;
pub use self::holder::{Holder, HolderInfo, ParseHolderError};
pub use self::name::LockName;
pub use self::offer::{Offer, Offers};
pub use self::share::{Share, Space};
pub use self::token::{FencingToken, Realm};
