//! [`Ballot`]: the counting of one attempt.

use std::sync::Arc;
use std::time::Duration;

use super::roster::Membership;
use super::vote::Votes;
use super::{Quorum, random_between};
use crate::{
    Attempt, Contention, Effect, Error, ErrorKind, FencingToken, HeldBy, Lease, RaiseOutcome, Result, Retention,
};

/// The counting of one attempt.
pub(super) struct Ballot<'q> {
    quorum: &'q Quorum,
    /// By what the quorum stands: whose votes count, and whose tokens these are.
    standing: Arc<Membership>,
    granted: Vec<(usize, Lease)>,
    /// Who granted the lock but has no vote.
    voteless: Vec<usize>,
    held: Vec<HeldBy>,
    silent: Vec<Error>,
}

impl<'q> Ballot<'q> {
    /// # Errors
    ///
    /// Unavailable while too few of those answer that have a place in the quorum.
    pub(super) fn open(quorum: &'q Quorum) -> Result<Ballot<'q>> {
        let standing = quorum.roster.membership();
        if quorum.has_tokens() && standing.roll.is_none() {
            quorum.roster.maintain();
            return Err(standing.refusal());
        }
        let (granted, voteless, held, silent) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Ok(Ballot { quorum, standing, granted, voteless, held, silent })
    }

    /// Counts the answer of one member.
    pub(super) fn count(&mut self, at: usize, answer: Result<Attempt>) {
        match answer {
            Ok(Attempt::Held(waiting)) => self.held.push(waiting.by),
            Err(error) => self.silent.push(error),
            Ok(Attempt::Granted(lease)) => match self.why_no_vote(at, &lease) {
                None => self.granted.push((at, lease)),
                Some(why) => {
                    tracing::debug!(member = at + 1, why, "a member has no vote");
                    self.voteless.push(at);
                    let text = format!("member {} has no vote: {why}", at + 1);
                    self.silent.push(Error::refused(ErrorKind::Unavailable, text));
                }
            },
        }
    }

    fn why_no_vote(&self, at: usize, lease: &Lease) -> Option<&'static str> {
        let place = self.why_no_place(at, lease);
        // "An instance that restarted makes itself unavailable for a bit more than the maximum TTL."
        let longest = self.quorum.longest_ttl;
        match lease.retention {
            Retention::Since(time) if time < longest => {
                return Some("it was restarted less than the longest TTL ago, and may have forgotten leases");
            }
            Retention::Since(_) | Retention::Complete => {}
        }
        if lease.session.is_some() {
            return Some("its lease is carried by a session");
        }
        place
    }

    /// A place belongs to the data, and the realm of a token says whose these are: what lost its data, or was exchanged,
    /// knows nothing of the tokens that were given before.
    fn why_no_place(&self, at: usize, lease: &Lease) -> Option<&'static str> {
        let roll = self.standing.roll.as_ref()?;
        let Some(realm) = lease.token.as_ref().map(FencingToken::realm) else { return Some("it gave no token") };
        if !roll.has(realm) {
            self.quorum.roster.suspect(at, realm);
            return Some("its data are not those that have a place in the quorum");
        }
        let voted = |(_, lease): &(usize, Lease)| lease.token.as_ref().map(FencingToken::realm) == Some(realm);
        self.granted.iter().any(voted).then_some("it is the same store as another member")
    }

    fn outstanding(&self) -> usize {
        self.quorum.len() - self.granted.len() - self.held.len() - self.silent.len()
    }

    pub(super) fn is_won(&self) -> bool {
        self.granted.len() >= self.quorum.majority()
    }

    /// Whether no further answer can change it.
    pub(super) fn is_decided(&self) -> bool {
        self.is_won() || self.granted.len() + self.outstanding() < self.quorum.majority()
    }

    /// The members that have granted it.
    pub(super) fn granted(&self) -> Vec<usize> {
        self.granted.iter().map(|(at, _)| *at).chain(self.voteless.iter().copied()).collect()
    }

    /// The lease of a ballot that is won; `None` if it is not, or no majority acknowledged its token.
    pub(super) async fn lease(&mut self, votes: &Arc<Votes>, limit: Duration) -> Option<Lease> {
        if !self.is_won() {
            return None;
        }
        let ttl = self.granted.iter().map(|(_, lease)| lease.ttl).min()?;
        let remembers =
            self.granted.iter().map(|(_, lease)| lease.retention).reduce(less).unwrap_or(Retention::Complete);
        let token = match &self.standing.roll {
            None => None,
            Some(_) => Some(self.token(votes, limit).await?),
        };
        Some(Lease::new(ttl, token, remembers))
    }

    /// The second phase: a majority makes the greatest token of the granting majority its own.
    async fn token(&mut self, votes: &Arc<Votes>, limit: Duration) -> Option<FencingToken> {
        let realm = self.standing.realm.clone();
        let numbers: Vec<_> =
            self.granted.iter().filter_map(|(at, lease)| Some((*at, lease.token.as_ref()?.number()))).collect();
        let greatest = numbers.iter().map(|(_, number)| *number).max()?;
        // Where a majority has had nobody else since the token was given out, it is still this holder's.
        let given = votes
            .token(&realm)
            .filter(|given| numbers.iter().filter(|(_, number)| number <= given).count() >= self.quorum.majority());
        let token = given.unwrap_or(greatest);
        let asked: Vec<_> = numbers.iter().filter(|(_, number)| *number <= token).map(|(at, _)| *at).collect();
        let mut left = asked.len();
        let mut answers = self.quorum.each_of(asked, |at, store| {
            let vote = votes.each[at].clone();
            async move { vote.raise(at, &*store?, token, limit).await }
        });
        let mut raised = 0;
        while raised < self.quorum.majority() && raised + left >= self.quorum.majority() {
            let (_, answer) = answers.recv().await?;
            left -= 1;
            match answer {
                Ok(RaiseOutcome::Raised) => raised += 1,
                // Another holder came in between.
                Ok(RaiseOutcome::Refused) => self.held.push(HeldBy::default()),
                Err(error) => self.silent.push(error),
            }
        }
        if raised < self.quorum.majority() {
            return None;
        }
        let token = FencingToken::new(realm, token);
        votes.granted_token(token.clone());
        Some(token)
    }

    /// What to tell who was not granted the lock; `unclear` if something may still be held.
    pub(super) fn refusal(self, unclear: bool) -> Result<Contention> {
        let quorum = self.quorum;
        if self.silent.len() >= quorum.too_many() || self.held.is_empty() {
            let effect = if unclear { Effect::Unknown } else { Effect::None };
            return Err(quorum.too_few(quorum.len() - self.silent.len(), &self.silent, effect));
        }
        let split = Duration::from_millis(4)..Duration::from_millis(40);
        let taken = Duration::from_millis(40)..Duration::from_millis(160);
        // "Retry after a random delay, to desynchronise multiple clients that try at the same time."
        let (by, delay) = match quorum.shown(self.held.iter().cloned(), quorum.majority()) {
            Some(by) => (by, taken),
            None => (quorum.shown(self.held, 1).unwrap_or_default(), split),
        };
        let look_again = random_between(delay.start, delay.end);
        let look_again = by.remaining.map_or(look_again, |remaining| look_again.min(remaining));
        Ok(Contention::new(by, look_again))
    }
}

fn less(a: Retention, b: Retention) -> Retention {
    match (a, b) {
        (Retention::Complete, other) | (other, Retention::Complete) => other,
        (Retention::Since(a), Retention::Since(b)) => Retention::Since(a.min(b)),
    }
}
