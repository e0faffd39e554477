//! [`Case`]: a test of one promise.

use std::future::Future;
use std::pin::Pin;

use lock_core::Fault;

use crate::context::Context;
use crate::ensure::CaseResult;
use crate::requirement::{Capabilities, Requirement};

type Run = fn(Context) -> Pin<Box<dyn Future<Output = CaseResult> + Send>>;

/// A test of one promise that every store makes.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    /// `group::sentence`.
    pub(crate) name: &'static str,
    pub(crate) requirements: &'static [Requirement],
    pub(crate) run: Run,
}

impl Case {
    /// Why this case is skipped; `None` if it runs.
    pub(crate) fn skip_reason(&self, capabilities: &Capabilities) -> Option<String> {
        self.requirements.iter().find_map(|requirement| requirement.unmet(capabilities))
    }

    /// The fault that this case inflicts.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.requirements.iter().find_map(|requirement| match requirement {
            Requirement::TokensSurvive(fault) | Requirement::RecordsSurvive(fault) => Some(*fault),
            _ => None,
        })
    }
}

/// Defines the cases of one group. Each list of requirements applies to the cases in the braces
/// after it.
macro_rules! cases {
    ($group:literal; $($requirements:tt { $($case:ident),+ $(,)? })+) => {
        /// The cases of this group.
        pub(crate) const CASES: &[$crate::case::Case] = &[$($(
            $crate::case::Case {
                name: concat!($group, "::", stringify!($case)),
                requirements: &$requirements,
                run: |context| Box::pin($case(context)),
            },
        )+)+];
    };
}

pub(crate) use cases;
