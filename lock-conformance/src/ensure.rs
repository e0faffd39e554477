//! [`CaseResult`] and [`ensure!`]: how a case fails.

use crate::factory::Failure;

/// The result of a case: `Err` says how the store broke the promise.
pub(crate) type CaseResult = Result<(), Failure>;

/// Fails the case unless the condition holds.
macro_rules! ensure {
    ($holds:expr, $($text:tt)+) => {
        // Not a negation: an order of tokens is partial.
        if $holds {} else {
            return Err(format!("{} ({}:{})", format_args!($($text)+), file!(), line!()).into());
        }
    };
}

pub(crate) use ensure;
