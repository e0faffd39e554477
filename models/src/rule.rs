//! [`Rule`]: how tokens are made.

/// How tokens are made: the rule that holds, and others that look right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Every grant that changes the holder increments the member's counter. The token is the greatest count of a granting
    /// majority. A member where this holder still has the lock, with a count that is not greater, raises it to the token
    /// and acknowledges. The token is given out after a majority acknowledged.
    Sound,
    /// The greatest count of a granting majority is given out at once.
    NoSecondPhase,
    /// A member raises its counter without a look at who has the lock.
    AnyHolderIsRaised,
    /// A member whose count is greater than the token acknowledges too: it is above the token, after all.
    GreaterCountsAcknowledge,
    /// A member that granted with just this count needs not be asked again.
    GrantsAcknowledge,
    /// The counter is incremented when a lock is given back, so that the next one gets a greater count.
    ReleasesIncrement,
    /// One acknowledgement is enough: a majority has granted, after all.
    OneAcknowledges,
    /// The least count of the granting majority is the token.
    LeastCount,
}

impl Rule {
    /// The rules that look right and are not.
    pub const WRONG: [Rule; 7] = [
        Rule::NoSecondPhase,
        Rule::AnyHolderIsRaised,
        Rule::GreaterCountsAcknowledge,
        Rule::GrantsAcknowledge,
        Rule::ReleasesIncrement,
        Rule::OneAcknowledges,
        Rule::LeastCount,
    ];
}
