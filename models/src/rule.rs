//! [`Rule`]: how tokens are made.

/// How tokens are made: the rule that holds, and others that look right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Every grant that changes the holder increments the member's counter. The token is the
    /// greatest count of a granting majority. A member where this holder still has the lock, with a
    /// count that is not greater, raises it to the token and acknowledges. The token is given out
    /// after a majority acknowledged.
    Sound,
    /// The greatest count of a granting majority is given out at once.
    NoSecondPhase,
    /// A member raises its counter without a look at who has the lock.
    AnyHolderIsRaised,
    /// A member whose count is greater than the token acknowledges too: it is above the token,
    /// after all.
    GreaterCountsAcknowledge,
    /// The lease gets the token, and the counter stays: the lease is what is asked for, after all.
    LeaseIsRaisedAlone,
    /// The counter is kept with the lease, and ends with it.
    CounterEndsWithTheLease,
    /// One acknowledgement is enough: a majority has granted, after all.
    OneAcknowledges,
}

impl Rule {
    /// The rules that look right and are not.
    pub const WRONG: [Rule; 6] = [
        Rule::NoSecondPhase,
        Rule::AnyHolderIsRaised,
        Rule::GreaterCountsAcknowledge,
        Rule::LeaseIsRaisedAlone,
        Rule::CounterEndsWithTheLease,
        Rule::OneAcknowledges,
    ];
}
