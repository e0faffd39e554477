//! [`Fault`]: what a store can suffer, and sets of it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::set::set_of;

/// One fault that a store can suffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
#[repr(u8)]
pub enum Fault {
    /// The store's process ends (`kill -9`) and is started again.
    Crash,
    /// The machine loses power: data that was not synced to disk is gone.
    PowerLoss,
    /// Another server takes over from the one that decided.
    FailOver,
    /// Less than half of the store's members are lost permanently.
    MinorityLoss,
    /// The server's wall clock is set forward or back.
    ClockStep,
    /// The server is paused for a while and continues.
    Pause,
    /// The store's data is restored to an earlier state.
    Restore,
}

impl Fault {
    /// Every fault, in the order in which tables show them.
    pub const ALL: [Fault; 7] = [
        Fault::Crash,
        Fault::PowerLoss,
        Fault::FailOver,
        Fault::MinorityLoss,
        Fault::ClockStep,
        Fault::Pause,
        Fault::Restore,
    ];
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Fault::Crash => "crash",
            Fault::PowerLoss => "power loss",
            Fault::FailOver => "fail-over",
            Fault::MinorityLoss => "loss of a minority",
            Fault::ClockStep => "server clock step",
            Fault::Pause => "server pause",
            Fault::Restore => "restore from backup",
        })
    }
}

set_of! {
    /// A set of [`Fault`]s.
    ///
    /// ```
    /// use lock_core::{Fault, Faults};
    /// const DURABLE: Faults = Faults::of(&[Fault::Crash, Fault::PowerLoss]);
    /// assert!(DURABLE.contains(Fault::Crash.into()) && !DURABLE.contains(Fault::FailOver.into()));
    /// ```
    Faults of Fault, "fault"
}
