//! [`Ballot`]: counts the votes of one attempt, without a store.

use std::time::Duration;

use super::call::{random_between, too_few};
use super::rules::Rules;
use crate::contract::{Attempt, Contention, Lease, RaiseOutcome, Retention};
use crate::words::{Effect, Error, ErrorKind, FencingToken, HeldBy, Realm, Result};

/// The count of one attempt.
pub(super) struct Ballot {
    rules: Rules,
    longest_ttl: Duration,
    granted: Vec<(usize, Lease)>,
    /// Members that granted the lock but have no vote.
    voteless: Vec<usize>,
    held: Vec<HeldBy>,
    silent: Vec<Error>,
}

impl Ballot {
    pub(super) fn new(rules: Rules, longest_ttl: Duration) -> Ballot {
        let (granted, voteless, held, silent) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Ballot { rules, longest_ttl, granted, voteless, held, silent }
    }

    /// Counts the answer of one member. Returns the realm of a member that has no place in the
    /// quorum.
    pub(super) fn count(&mut self, at: usize, answer: Result<Attempt>) -> Option<Realm> {
        match answer {
            Ok(Attempt::Held(waiting)) => self.held.push(waiting.by),
            Err(error) => self.silent.push(error),
            Ok(Attempt::Granted(lease)) => match self.why_no_vote(&lease) {
                None => self.granted.push((at, lease)),
                Some(why) => {
                    tracing::debug!(member = at + 1, why, "a member has no vote");
                    self.voteless.push(at);
                    let text = format!("member {} has no vote: {why}", at + 1);
                    self.silent.push(Error::refused(ErrorKind::Unavailable, text));
                    return self.stranger(&lease).cloned();
                }
            },
        }
        None
    }

    fn why_no_vote(&self, lease: &Lease) -> Option<&'static str> {
        // "An instance that restarted makes itself unavailable for a bit more than the maximum
        // TTL."
        match lease.retention {
            Retention::Since(time) if time < self.longest_ttl => {
                return Some("it was restarted less than the longest TTL ago, and may have forgotten leases");
            }
            Retention::Since(_) | Retention::Complete => {}
        }
        if lease.session.is_some() {
            return Some("its lease is carried by a session");
        }
        self.why_no_place(lease)
    }

    /// The realm of a lease whose member has no place in the quorum.
    fn stranger<'l>(&self, lease: &'l Lease) -> Option<&'l Realm> {
        let roll = self.rules.membership.roll.as_ref()?;
        lease.token.as_ref().map(FencingToken::realm).filter(|realm| !roll.has(realm))
    }

    /// A place belongs to the data, which the realm of a token identifies: a member that lost its
    /// data, or was exchanged, does not know the tokens that were issued before.
    fn why_no_place(&self, lease: &Lease) -> Option<&'static str> {
        self.rules.membership.roll.as_ref()?;
        let Some(realm) = lease.token.as_ref().map(FencingToken::realm) else { return Some("it gave no token") };
        if self.stranger(lease).is_some() {
            return Some("its data are not those that have a place in the quorum");
        }
        let voted = |(_, lease): &(usize, Lease)| lease.token.as_ref().map(FencingToken::realm) == Some(realm);
        self.granted.iter().any(voted).then_some("it is the same store as another member")
    }

    fn outstanding(&self) -> usize {
        self.rules.members - self.granted.len() - self.held.len() - self.silent.len()
    }

    pub(super) fn is_won(&self) -> bool {
        self.granted.len() >= self.rules.majority
    }

    /// True if no further answer can change the result.
    pub(super) fn is_decided(&self) -> bool {
        self.is_won() || self.granted.len() + self.outstanding() < self.rules.majority
    }

    /// The members that have granted the lock.
    pub(super) fn granted(&self) -> Vec<usize> {
        self.granted.iter().map(|(at, _)| *at).chain(self.voteless.iter().copied()).collect()
    }

    /// The lease of a ballot that is won, with the token that a majority acknowledged.
    pub(super) fn lease(&self, token: Option<FencingToken>) -> Option<Lease> {
        let ttl = self.granted.iter().map(|(_, lease)| lease.ttl).min()?;
        let retentions = self.granted.iter().map(|(_, lease)| lease.retention);
        Some(Lease::new(ttl, token, retentions.reduce(less).unwrap_or(Retention::Complete)))
    }

    /// The realm of its tokens.
    pub(super) fn realm(&self) -> &Realm {
        &self.rules.membership.realm
    }

    /// True if its lease has a token.
    pub(super) fn has_token(&self) -> bool {
        self.rules.membership.roll.is_some()
    }

    /// The token that a majority has to acknowledge, and the members whose own tokens are not
    /// greater. It is the greatest token of the members that granted the lock. If a majority had no
    /// other holder since `given` was issued, it is still `given`.
    pub(super) fn proposed_token(&self, given: Option<u64>) -> Option<(FencingToken, Vec<usize>)> {
        let number = |(at, lease): &(usize, Lease)| Some((*at, lease.token.as_ref()?.number()));
        let numbers: Vec<_> = self.granted.iter().filter_map(number).collect();
        let up_to = |most: u64| numbers.iter().filter(move |(_, number)| *number <= most).map(|(at, _)| *at);
        let greatest = numbers.iter().map(|(_, number)| *number).max()?;
        let token = given.filter(|given| up_to(*given).count() >= self.rules.majority).unwrap_or(greatest);
        Some((self.rules.token(token), up_to(token).collect()))
    }

    /// Counts a raise that did not succeed, for the refusal.
    pub(super) fn count_refused_raise(&mut self, answer: Result<RaiseOutcome>) {
        match answer {
            // Another holder acquired it in between.
            Ok(_) => self.held.push(HeldBy::default()),
            Err(error) => self.silent.push(error),
        }
    }

    /// The answer to a claim that was not granted. `in_doubt` says that a member may still hold it.
    pub(super) fn refusal(self, in_doubt: bool) -> Result<Contention> {
        let rules = self.rules;
        if self.silent.len() >= rules.too_many() || self.held.is_empty() {
            let effect = if in_doubt { Effect::Unknown } else { Effect::None };
            return Err(too_few(rules.members - self.silent.len(), rules.members, &self.silent, effect));
        }
        let split = Duration::from_millis(4)..Duration::from_millis(40);
        let taken = Duration::from_millis(40)..Duration::from_millis(160);
        // "Retry after a random delay, to desynchronise multiple clients that try at the same
        // time."
        let (by, delay) = match rules.shown(self.held.iter().cloned(), rules.majority) {
            Some(by) => (by, taken),
            None => (rules.shown(self.held, 1).unwrap_or_default(), split),
        };
        let retry_after = random_between(delay.start, delay.end);
        let retry_after = by.remaining.map_or(retry_after, |remaining| retry_after.min(remaining));
        Ok(Contention::new(by, retry_after))
    }
}

fn less(a: Retention, b: Retention) -> Retention {
    match (a, b) {
        (Retention::Complete, other) | (other, Retention::Complete) => other,
        (Retention::Since(a), Retention::Since(b)) => Retention::Since(a.min(b)),
    }
}
