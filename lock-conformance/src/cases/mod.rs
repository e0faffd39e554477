//! The cases: one file per group.

mod cancellation;
mod diagnosis;
mod exclusion;
mod expiry;
mod guarantees;
mod inspection;
mod keeping;
mod loss;
mod names;
mod raising;
mod release;
mod renewal;
mod sample_names;
mod tokens;
mod unknown;
mod waiting;

use crate::case::Case;

/// All cases; the groups that take no time come first.
pub(crate) fn all() -> impl Iterator<Item = &'static Case> {
    let groups = [
        guarantees::CASES,
        release::CASES,
        inspection::CASES,
        diagnosis::CASES,
        tokens::CASES,
        raising::CASES,
        keeping::CASES,
        names::CASES,
        exclusion::CASES,
        renewal::CASES,
        expiry::CASES,
        waiting::CASES,
        unknown::CASES,
        cancellation::CASES,
        loss::CASES,
    ];
    groups.into_iter().flatten()
}
