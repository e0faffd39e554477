//! The contract for stores, and what a store is asked with.

pub(crate) mod claim;
pub(crate) mod deadline;
pub(crate) mod renewal_batch;
pub(crate) mod schedule;
pub(crate) mod session;
pub(crate) mod store;

pub use self::claim::Claim;
pub use self::renewal_batch::{Beat, Renewal, RenewalBatch, RenewalOutcome};
pub use self::session::{PendingSession, Session};
pub use self::store::{
    Attempt, BreakMode, Contention, Eviction, Lease, LockStore, RaiseOutcome, RecordStore, ReleaseOutcome, Retention,
    StoredRecord, TokenRaiser,
};
