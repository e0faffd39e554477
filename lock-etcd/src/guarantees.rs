//! The guarantees of a cluster.

use lock_core::{ClockKind, Expiry, Fault, Faults, Guarantees, WaitStyle};

/// The guarantees of a cluster with this number of voting members.
pub(crate) fn guarantees_of(voters: usize) -> Guarantees {
    let mut records = Faults::of(&[Fault::Crash, Fault::PowerLoss, Fault::FailOver]);
    if voters >= 3 {
        records = records | Fault::MinorityLoss.into();
    }
    let tokens = records | Faults::of(&[Fault::ClockStep, Fault::Pause]);
    Guarantees::NONE
        .records_survive(records)
        .tokens_survive(tokens)
        .expiry(Expiry::Session(ClockKind::Monotonic))
        .waiting(WaitStyle::Queued)
}
