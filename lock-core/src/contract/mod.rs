//! The contract for stores, and the types that pass between the core and a store.

pub(crate) mod answer;
pub(crate) mod claim;
pub(crate) mod deadline;
pub(crate) mod finding;
pub(crate) mod renewal_batch;
pub(crate) mod schedule;
pub(crate) mod session;
pub(crate) mod store;

pub use self::answer::{
    Attempt, BreakMode, Contention, Eviction, Lease, RaiseOutcome, ReleaseOutcome, Retention, StoredRecord,
};
pub use self::claim::Claim;
pub use self::finding::{Finding, Severity};
pub use self::renewal_batch::{Renewal, RenewalBatch, RenewalOutcome};
pub use self::session::{PendingSession, Session};
pub use self::store::{Converter, LockStore, Publisher, RecordStore, TokenRaiser};
