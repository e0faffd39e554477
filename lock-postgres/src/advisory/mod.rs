//! Advisory locks: the second way, for programs that must exclude existing code that uses these.

mod carrier;
mod carriers;
mod sql;
mod store;

pub use self::store::AdvisoryStore;
