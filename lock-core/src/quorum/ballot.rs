//! [`Ballot`]: the counting of one attempt.

use std::sync::Arc;
use std::time::Duration;

use super::vote::Votes;
use super::{Quorum, random_between};
use crate::{Attempt, Effect, Error, ErrorKind, HeldBy, Lease, Raised, Realm, Remembers, Result, Waiting};

/// The counting of one attempt.
pub(super) struct Ballot<'q> {
    quorum: &'q Quorum,
    /// Whose tokens count: a member that began a new realm since has no vote in this one.
    realms: Vec<Realm>,
    granted: Vec<(usize, Lease)>,
    /// Who granted the lock but has no vote.
    voteless: Vec<usize>,
    held: Vec<HeldBy>,
    silent: Vec<Error>,
}

impl<'q> Ballot<'q> {
    pub(super) fn open(quorum: &'q Quorum) -> Ballot<'q> {
        let realms = quorum.members.iter().map(|member| member.realm()).collect();
        Ballot { quorum, realms, granted: Vec::new(), voteless: Vec::new(), held: Vec::new(), silent: Vec::new() }
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
        // "An instance that restarted makes itself unavailable for a bit more than the maximum TTL."
        let longest = self.quorum.longest_ttl;
        match lease.remembers {
            Remembers::For(time) if time < longest => {
                return Some("it was restarted less than the longest TTL ago, and may have forgotten leases");
            }
            Remembers::For(_) | Remembers::Everything => {}
        }
        if lease.session.is_some() {
            return Some("its lease is carried by a session");
        }
        if !self.quorum.has_tokens() {
            return None;
        }
        match &lease.token {
            None => Some("it gave no token"),
            Some(token) if *token.realm() != self.realms[at] => Some("it has begun a new realm"),
            Some(_) => None,
        }
    }

    fn outstanding(&self) -> usize {
        self.realms.len() - self.granted.len() - self.held.len() - self.silent.len()
    }

    pub(super) fn is_won(&self) -> bool {
        self.granted.len() >= self.quorum.majority
    }

    /// Whether no further answer can change it.
    pub(super) fn is_decided(&self) -> bool {
        self.is_won() || self.granted.len() + self.outstanding() < self.quorum.majority
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
            self.granted.iter().map(|(_, lease)| lease.remembers).reduce(less).unwrap_or(Remembers::Everything);
        let token = match self.quorum.has_tokens() {
            false => None,
            true => Some(self.token(votes, limit).await?),
        };
        // Only members of these realms have voted.
        let realm = || super::promises::realm(self.realms.iter().cloned());
        Some(Lease::new(ttl, token.map(|number| crate::FencingToken::new(realm(), number)), remembers))
    }

    /// The second phase: a majority makes the greatest token of the granting majority its own.
    async fn token(&mut self, votes: &Arc<Votes>, limit: Duration) -> Option<u64> {
        let numbers: Vec<_> =
            self.granted.iter().filter_map(|(at, lease)| Some((*at, lease.token.as_ref()?.number()))).collect();
        let greatest = numbers.iter().map(|(_, number)| *number).max()?;
        // Where a majority has had nobody else since the token was given out, it is still this holder's.
        let given = votes
            .token()
            .filter(|given| numbers.iter().filter(|(_, number)| number <= given).count() >= self.quorum.majority);
        let token = given.unwrap_or(greatest);
        let asked: Vec<_> = numbers.iter().filter(|(_, number)| *number <= token).map(|(at, _)| *at).collect();
        let mut left = asked.len();
        let mut answers = self.quorum.these(asked, |at, store| {
            let vote = votes.each[at].clone();
            async move { vote.raise(at, &*store, token, limit).await }
        });
        let mut raised = 0;
        while raised < self.quorum.majority && raised + left >= self.quorum.majority {
            let (_, answer) = answers.recv().await?;
            left -= 1;
            match answer {
                Ok(Raised::Raised) => raised += 1,
                // Another holder came in between.
                Ok(Raised::Refused) => self.held.push(HeldBy::default()),
                Err(error) => self.silent.push(error),
            }
        }
        if raised < self.quorum.majority {
            return None;
        }
        votes.gave(token);
        Some(token)
    }

    /// What to tell who was not granted the lock; `unclear` if something may still be held.
    pub(super) fn refusal(self, unclear: bool) -> Result<Waiting> {
        let quorum = self.quorum;
        if self.silent.len() >= quorum.too_many() || self.held.is_empty() {
            let effect = if unclear { Effect::Unknown } else { Effect::None };
            return Err(quorum.too_few(quorum.members.len() - self.silent.len(), &self.silent, effect));
        }
        let split = Duration::from_millis(4)..Duration::from_millis(40);
        let taken = Duration::from_millis(40)..Duration::from_millis(160);
        // "Retry after a random delay, to desynchronise multiple clients that try at the same time."
        let (by, delay) = match quorum.shown(self.held.iter().cloned(), quorum.majority) {
            Some(by) => (by, taken),
            None => (quorum.shown(self.held, 1).unwrap_or_default(), split),
        };
        let look_again = random_between(delay.start, delay.end);
        let look_again = by.remaining.map_or(look_again, |remaining| look_again.min(remaining));
        Ok(Waiting::new(by, look_again))
    }
}

fn less(a: Remembers, b: Remembers) -> Remembers {
    match (a, b) {
        (Remembers::Everything, other) | (other, Remembers::Everything) => other,
        (Remembers::For(a), Remembers::For(b)) => Remembers::For(a.min(b)),
    }
}
