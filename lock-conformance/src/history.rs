//! [`History`]: the record of one lock, and the checker of its laws.
//!
//! Fencing tokens fix the order of the leases, so one pass over them decides exactly; nothing is
//! searched. All times are of one clock, counted from any moment. Limit: an acquire whose reply
//! never came is not part of a history, since it is unknown whether it was granted. Nothing here is
//! async: a history is plain data.

use std::fmt;
use std::time::Duration;

/// The leases of one lock of one realm, and the writes that they protected.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The leases whose grant was observed, in any order.
    pub leases: Vec<ObservedLease>,
    /// The tokens of the writes that the protected resource accepted, in its order.
    pub accepted: Vec<u64>,
}

/// A lease, as its holder observed it.
#[derive(Clone, Debug, Default)]
pub struct ObservedLease {
    /// Its fencing token.
    pub token: u64,
    /// When the acquire began.
    pub invoked: Duration,
    /// When the acquire ended.
    pub returned: Duration,
    /// The earliest moment at which the store may have ended it by time: the sending of the last
    /// confirmed request or renewal, plus the TTL.
    pub expires: Duration,
    /// When its release, or its break by an operator, began.
    pub released: Option<Duration>,
    /// The end of the holder's belief in it: the earliest of release, deadline and loss.
    pub believed_until: Duration,
    /// When the confirmed calls of its holder began: renewals, and the release, that the store
    /// answered with "held".
    pub confirmed: Vec<Duration>,
}

/// A violated law.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// Two leases have this token.
    TokenRepeats(u64),
    /// The first lease was granted before the second was requested, and has the greater token.
    TokenFell(u64, u64),
    /// The lease with the second token was granted while that with the first cannot have ended.
    TwoLeases(u64, u64),
    /// The holders of these tokens believed in their leases at the same moment.
    TwoBelievers(u64, u64),
    /// A renewal or release of the first succeeded after the second was granted.
    StrangerSucceeded(u64, u64),
    /// The resource accepted the second token after the first, which is greater.
    FencePassed(u64, u64),
}

impl History {
    /// Checks all laws.
    ///
    /// # Errors
    ///
    /// The first violation.
    pub fn check(&self) -> Result<(), Violation> {
        let mut leases: Vec<&ObservedLease> = self.leases.iter().collect();
        leases.sort_by_key(|lease| lease.token);
        check_order(&leases)?;
        check_leases(&leases)?;
        check_beliefs(&leases)?;
        check_confirmations(&leases)?;
        match self.accepted.windows(2).find(|pair| pair[1] < pair[0]) {
            Some(pair) => Err(Violation::FencePassed(pair[0], pair[1])),
            None => Ok(()),
        }
    }
}

impl ObservedLease {
    /// The earliest moment at which the store may have ended it.
    fn earliest_end(&self) -> Duration {
        self.released.map_or(self.expires, |released| released.min(self.expires))
    }
}

/// Checks that tokens are unique and rise in real time.
fn check_order(leases: &[&ObservedLease]) -> Result<(), Violation> {
    if let Some(pair) = leases.windows(2).find(|pair| pair[0].token == pair[1].token) {
        return Err(Violation::TokenRepeats(pair[0].token));
    }
    // The lease that was granted first among those with greater tokens.
    let mut first: Option<&ObservedLease> = None;
    for lease in leases.iter().rev() {
        if let Some(later) = first.filter(|later| later.returned < lease.invoked) {
            return Err(Violation::TokenFell(later.token, lease.token));
        }
        first = first.filter(|first| first.returned <= lease.returned).or(Some(lease));
    }
    Ok(())
}

/// Checks that no two leases overlap. The pass is exact: it grants each lease as early as possible.
/// If that is too late for its reply, no order of events explains the history.
fn check_leases(leases: &[&ObservedLease]) -> Result<(), Violation> {
    let mut free_from = Duration::ZERO;
    let mut before = 0;
    for lease in leases {
        let granted = free_from.max(lease.invoked);
        if granted > lease.returned {
            return Err(Violation::TwoLeases(before, lease.token));
        }
        let ended = granted.max(lease.earliest_end());
        if ended >= free_from {
            before = lease.token;
        }
        free_from = ended;
    }
    Ok(())
}

/// Checks that no two beliefs overlap. An empty belief overlaps with none.
fn check_beliefs(leases: &[&ObservedLease]) -> Result<(), Violation> {
    let mut beliefs: Vec<_> = leases.iter().filter(|lease| lease.returned < lease.believed_until).collect();
    beliefs.sort_by_key(|lease| lease.returned);
    match beliefs.windows(2).find(|pair| pair[1].returned < pair[0].believed_until) {
        Some(pair) => Err(Violation::TwoBelievers(pair[0].token, pair[1].token)),
        None => Ok(()),
    }
}

/// Checks that no call of a former holder was confirmed after the next grant.
fn check_confirmations(leases: &[&ObservedLease]) -> Result<(), Violation> {
    // The lease that was granted first among those with greater tokens.
    let mut first: Option<&ObservedLease> = None;
    for lease in leases.iter().rev() {
        let was_confirmed_after = |later: &&ObservedLease| lease.confirmed.iter().any(|call| *call > later.returned);
        if let Some(later) = first.filter(was_confirmed_after) {
            return Err(Violation::StrangerSucceeded(lease.token, later.token));
        }
        first = first.filter(|first| first.returned <= lease.returned).or(Some(lease));
    }
    Ok(())
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::TokenRepeats(token) => write!(f, "two leases have token {token}"),
            Violation::TokenFell(a, b) => write!(f, "{b} was asked for after {a} was granted"),
            Violation::TwoLeases(a, b) => write!(f, "{b} was granted while {a} cannot have ended"),
            Violation::TwoBelievers(a, b) => write!(f, "the holders of {a} and {b} believed at the same moment"),
            Violation::StrangerSucceeded(a, b) => write!(f, "{a} was confirmed after {b} was granted"),
            Violation::FencePassed(a, b) => write!(f, "the resource accepted {b} after {a}"),
        }
    }
}

impl std::error::Error for Violation {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// A lease that was requested and granted at these times, and by default lasts until `ends`.
    fn lease(token: u64, invoked: u64, returned: u64, ends: u64) -> ObservedLease {
        let (invoked, returned, ends) = (at(invoked), at(returned), at(ends));
        ObservedLease { token, invoked, returned, expires: ends, believed_until: ends, ..ObservedLease::default() }
    }

    fn verdict(leases: impl Into<Vec<ObservedLease>>) -> Result<(), Violation> {
        History { leases: leases.into(), accepted: Vec::new() }.check()
    }

    #[test]
    fn leases_one_after_the_other_are_lawful_in_any_order_of_recording() {
        assert_eq!(verdict([lease(2, 10, 12, 20), lease(1, 0, 2, 10), lease(7, 5, 21, 30)]), Ok(()));
    }

    #[test]
    fn a_release_frees_before_the_ttl() {
        let released = ObservedLease { released: Some(at(5)), believed_until: at(5), ..lease(1, 0, 2, 100) };
        assert_eq!(verdict([released, lease(2, 3, 6, 50)]), Ok(()));
    }

    #[test]
    fn a_grant_before_the_end_of_the_lease_in_the_way_is_found() {
        let unbelieved = ObservedLease { believed_until: at(2), ..lease(1, 0, 2, 10) };
        assert_eq!(verdict([unbelieved, lease(2, 3, 9, 20)]), Err(Violation::TwoLeases(1, 2)));
    }

    #[test]
    fn a_lease_that_was_granted_late_blocks_only_from_its_grant() {
        // The second has ended before the third asks, though the first lasts as long as it may.
        assert_eq!(verdict([lease(1, 0, 2, 10), lease(2, 1, 11, 11), lease(3, 12, 13, 20)]), Ok(()));
    }

    #[test]
    fn a_repeated_token_and_a_fallen_token_are_found() {
        assert_eq!(verdict([lease(1, 0, 1, 2), lease(1, 5, 6, 7)]), Err(Violation::TokenRepeats(1)));
        assert_eq!(verdict([lease(1, 0, 6, 2), lease(1, 5, 6, 7)]), Err(Violation::TokenRepeats(1)));
        assert_eq!(verdict([lease(2, 0, 1, 2), lease(1, 5, 6, 7)]), Err(Violation::TokenFell(2, 1)));
    }

    #[test]
    fn two_believers_are_found_where_the_leases_themselves_are_lawful() {
        let believes_too_long = ObservedLease { believed_until: at(15), ..lease(1, 0, 2, 10) };
        assert_eq!(verdict([believes_too_long, lease(2, 3, 12, 20)]), Err(Violation::TwoBelievers(1, 2)));
    }

    #[test]
    fn a_renewal_that_succeeds_after_the_next_grant_is_found() {
        let renewed = ObservedLease { confirmed: vec![at(5), at(13)], ..lease(1, 0, 2, 10) };
        assert_eq!(verdict([renewed, lease(2, 3, 12, 20)]), Err(Violation::StrangerSucceeded(1, 2)));
        let in_time = ObservedLease { confirmed: vec![at(5), at(11)], ..lease(1, 0, 2, 10) };
        assert_eq!(verdict([in_time, lease(2, 3, 12, 20)]), Ok(()));
    }

    #[test]
    fn a_fence_that_admits_an_old_token_is_found() {
        let history = History { accepted: vec![1, 1, 3, 2], ..History::default() };
        assert_eq!(history.check(), Err(Violation::FencePassed(3, 2)));
    }

    /// True if some choice of grant moments explains the leases; tries them one by one.
    fn explained(leases: &[ObservedLease], free_from: u64) -> bool {
        let Some((lease, rest)) = leases.split_first() else { return true };
        let (invoked, returned) = (lease.invoked.as_millis() as u64, lease.returned.as_millis() as u64);
        (invoked.max(free_from)..=returned).any(|granted| {
            // A longer lease would explain nothing more.
            explained(rest, granted.max(lease.earliest_end().as_millis() as u64))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn the_pass_agrees_with_trying_every_moment(
            drawn in prop::collection::vec((0..12_u64, 0..6_u64, 0..8_u64, prop::option::of(0..8_u64)), 0..5),
        ) {
            let leases: Vec<ObservedLease> = drawn.iter().zip(1..).map(|((invoked, took, lasts, released), token)| ObservedLease {
                // Beliefs are checked separately.
                believed_until: Duration::ZERO,
                released: released.map(|after| at(invoked + after)),
                ..lease(token, *invoked, invoked + took, invoked + lasts)
            }).collect();
            let pass = verdict(leases.clone());
            prop_assert_eq!(pass.is_ok(), explained(&leases, 0), "{:?}", pass);
        }
    }
}
