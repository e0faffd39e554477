//! [`Quorum`]: a store over several independent stores, of which a majority decides.

mod ballot;
mod break_lock;
mod call;
mod decision;
mod diagnose;
mod driver;
mod forming;
mod gathering;
mod list;
mod member;
mod membership;
mod present;
mod promises;
mod record;
mod release;
mod renewal;
mod roll;
mod roster;
mod rules;
mod shown;
mod vote;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;

use self::ballot::Ballot;
use self::call::{bounded, too_few};
pub use self::driver::QuorumDriver;
pub use self::member::Member;
use self::roster::Roster;
use self::rules::Rules;
use self::vote::{Vote, Votes};
use crate::contract::{
    Attempt, BreakMode, Claim, Contention, Converter, Eviction, Finding, Lease, LockStore, Publisher, RaiseOutcome,
    ReleaseOutcome, RenewalBatch, TokenRaiser,
};
use crate::words::{Effect, Error, FencingToken, Guarantees, HeldBy, LockName, Realm, Result, Space};

/// A store over several independent stores, of any kind, of which a majority decides: the algorithm
/// that Redis calls Redlock, with every rule of its specification, and fencing tokens where the
/// members can raise theirs.
///
/// - All members are asked at once, each with its own short time-out. A claim that a majority
///   grants holds the lock, for as long as the shortest of those leases lasts, counted from before
///   the first request was sent.
/// - A claim without a majority gives everything back at once, also where no answer came, and
///   retries after a random delay.
/// - A lease is renewed if a majority renews it, and lost if so many members no longer have it that
///   no majority can.
/// - A member that may have forgotten grants that are younger than the longest TTL has no vote
///   ([`Retention`](crate::Retention)): the rule that the specification calls *delayed restarts*.
/// - The token is the greatest one of a granting majority. It is issued only after a majority has
///   [raised](crate::TokenRaiser) its own tokens to it.
///
/// The members must be independent and different. A lease that a session carries has no vote, so
/// stores whose leases end with sessions are refused.
///
/// A quorum is formed once, by a majority of its members or more, and has a realm of its own from
/// then on. The members keep a record of its membership ([`RecordStore`](crate::RecordStore)): any
/// majority of those that have a place opens it. A member that was down joins by itself. A place
/// belongs to a member's data: a member that lost them has no vote until there is a free place, or
/// a new realm ([`LockStore::new_realm`]). Members whose tokens do not promise to survive a crash
/// lose their places with their data; they then form a new quorum by themselves, in a new realm.
///
/// A majority of n is n / 2 + 1; the others may fail: none of 1 or 2, one of 3 or 4, two of 5.
pub struct Quorum {
    roster: Arc<Roster>,
    longest_ttl: Duration,
    member_timeout: Option<Duration>,
}

impl Quorum {
    /// Default of the longest TTL: the longest that is granted, and the time for which a member
    /// that may have forgotten leases has no vote.
    pub const DEFAULT_LONGEST_TTL: Duration = Duration::from_secs(60);

    /// Opens the quorum of these members, of which a majority must be up, and forms it if that was
    /// never done. A member that is down joins when it is up. If not every member can keep the
    /// record of the membership, all must be up.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for no members, for two with the same
    /// data, and for one whose leases do not each end by a TTL of their own.
    /// [`Unavailable`](crate::ErrorKind::Unavailable), or the kind that all failures share, if too
    /// few members answer within 4 seconds; the text names those that did not.
    ///
    /// # Cancel safety
    ///
    /// The quorum may have been formed, which happens once in any case.
    pub async fn open<M: Into<Member>>(members: impl IntoIterator<Item = M>) -> Result<Quorum> {
        let members = members.into_iter().map(Into::into).collect();
        let roster = Roster::open(members).await?;
        Ok(Quorum { roster, longest_ttl: Quorum::DEFAULT_LONGEST_TTL, member_timeout: None })
    }

    /// With another longest TTL. It must be the same for all clients of these members.
    #[must_use]
    pub fn longest_ttl(mut self, ttl: Duration) -> Quorum {
        self.longest_ttl = ttl;
        self
    }

    /// With another time-out of one call to one member; by default a tenth of the TTL, 50 to 500
    /// ms.
    #[must_use]
    pub fn member_timeout(mut self, limit: Duration) -> Quorum {
        self.member_timeout = Some(limit);
        self
    }

    fn limit(&self, ttl: Duration) -> Duration {
        // The specification proposes 5 to 50 ms (TTL 10 s, Redis in one network); others may be
        // slower.
        let proposed = (ttl / 10).clamp(Duration::from_millis(50), Duration::from_millis(500));
        self.member_timeout.unwrap_or(proposed)
    }

    fn rules(&self) -> Rules {
        Rules {
            members: self.len(),
            majority: self.majority(),
            has_tokens: self.roster.has_tokens(),
            membership: self.roster.membership(),
        }
    }

    fn len(&self) -> usize {
        self.roster.len()
    }

    fn majority(&self) -> usize {
        self.roster.majority
    }

    /// A ballot of all members.
    ///
    /// # Errors
    ///
    /// Unavailable while too few of the members answer that have a place in the quorum.
    fn open_ballot(&self) -> Result<Ballot> {
        let rules = self.rules();
        if rules.has_tokens && rules.membership.roll.is_none() {
            self.roster.maintain();
            return Err(rules.membership.refusal());
        }
        Ok(Ballot::new(rules, self.longest_ttl))
    }

    /// The lease of a won ballot; `None` if it is not won, or no majority acknowledged its token.
    async fn lease(&self, ballot: &mut Ballot, votes: &Arc<Votes>, limit: Duration) -> Option<Lease> {
        if !ballot.is_won() {
            return None;
        }
        let token = match ballot.has_token() {
            false => None,
            true => Some(self.raise(ballot, votes, limit).await?),
        };
        ballot.lease(token)
    }

    /// The second phase: a majority raises its tokens to the greatest one of the granting majority.
    async fn raise(&self, ballot: &mut Ballot, votes: &Arc<Votes>, limit: Duration) -> Option<FencingToken> {
        let (token, asked) = ballot.proposed_token(votes.token(ballot.realm()))?;
        let (number, mut left, mut raised) = (token.number(), asked.len(), 0);
        let mut answers = self.each_of(asked, |at, store| {
            let vote = votes.each[at].clone();
            async move { vote.raise(at, &*store?, number, limit).await }
        });
        while raised < self.majority() && raised + left >= self.majority() {
            let (_, answer) = answers.recv().await?;
            left -= 1;
            match answer {
                Ok(RaiseOutcome::Raised) => raised += 1,
                refused => ballot.count_refused_raise(refused),
            }
        }
        if raised < self.majority() {
            return None;
        }
        votes.granted_token(token.clone());
        Some(token)
    }

    fn votes(&self, claim: &Claim) -> Arc<Votes> {
        claim.store_state(|| Arc::new(Votes::new(claim, self.len()))).clone()
    }

    /// Calls every member at once, each in a task that runs to its end even if its answer is no
    /// longer awaited. Returns the answers as they come; `call` gets the error of one that is down.
    fn each<T, F>(&self, call: impl Fn(usize, Result<Arc<dyn LockStore>>) -> F) -> mpsc::UnboundedReceiver<(usize, T)>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.each_of(0..self.len(), call)
    }

    fn each_of<T, F>(
        &self,
        members: impl IntoIterator<Item = usize>,
        call: impl Fn(usize, Result<Arc<dyn LockStore>>) -> F,
    ) -> mpsc::UnboundedReceiver<(usize, T)>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.roster.maintain();
        let (answer, answers) = mpsc::unbounded_channel();
        for at in members {
            let (answer, call) = (answer.clone(), call(at, self.roster.store(at)));
            tokio::spawn(async move {
                // The receiver is gone if the ballot was decided without this answer.
                let _ = answer.send((at, call.await));
            });
        }
        answers
    }

    /// The answers of all members to a read-only call.
    async fn all<T, F>(&self, call: impl Fn(Arc<dyn LockStore>) -> F) -> Vec<Result<T>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let limit = self.member_timeout.unwrap_or(Duration::from_millis(500));
        let mut answers = self.each(|at, store| {
            let call = store.map(&call);
            async move { bounded(at, limit, call?).await }
        });
        let mut all = Vec::with_capacity(self.len());
        while let Some((_, answer)) = answers.recv().await {
            all.push(answer);
        }
        all
    }

    /// The answers, if there is a majority of them, and the number of missing ones.
    fn answered<T>(&self, answers: Vec<Result<T>>) -> Result<(Vec<T>, usize)> {
        let (mut came, mut failed) = (Vec::with_capacity(answers.len()), Vec::new());
        for answer in answers {
            match answer {
                Ok(answer) => came.push(answer),
                Err(error) => failed.push(error),
            }
        }
        if came.len() < self.majority() {
            return Err(self.too_few(came.len(), &failed, Effect::None));
        }
        Ok((came, failed.len()))
    }

    /// Error of a step that too few members answered.
    fn too_few(&self, there: usize, failed: &[Error], effect: Effect) -> Error {
        too_few(there, self.len(), failed, effect)
    }

    /// Gives back what the claim may have at each member; returns when all `awaited` have answered.
    async fn withdraw(&self, claim: &Claim, votes: &Arc<Votes>, awaited: &[usize], limit: Duration) {
        let held: Vec<_> = (0..self.len()).filter(|at| votes.each[*at].may_hold()).collect();
        if !held.is_empty() {
            // A fresh holder for each attempt: a release that is applied a second time, late, must
            // not end a later lease of its holder.
            claim.retire();
        }
        let mut left: Vec<_> = awaited.iter().copied().filter(|at| votes.each[*at].may_hold()).collect();
        let mut answers = self.each_of(held, |at, store| {
            let vote = votes.each[at].clone();
            async move { vote.release(at, &*store?, limit).await }
        });
        while !left.is_empty() {
            let Some((at, _)) = answers.recv().await else { return };
            left.retain(|awaited| *awaited != at);
        }
    }
}

#[async_trait]
impl LockStore for Quorum {
    fn guarantees(&self) -> Guarantees {
        self.roster.guarantees()
    }

    fn realm(&self) -> Realm {
        self.roster.membership().realm.clone()
    }

    async fn request(&self, claim: &Claim) -> Result<Attempt> {
        if claim.ttl() > self.longest_ttl {
            let text = format!(
                "a TTL of {:?} is longer than the longest of this quorum, {:?}: a member that was restarted longer ago \
                 than that has a vote again",
                claim.ttl(),
                self.longest_ttl
            );
            return Err(Error::invalid_config(text));
        }
        let (votes, limit) = (self.votes(claim), self.limit(claim.ttl()));
        let mut ballot = self.open_ballot()?;
        let mut answers = self.each(|at, store| {
            let vote: Arc<Vote> = votes.each[at].clone();
            async move { vote.ask(at, &*store?, limit).await }
        });
        while !ballot.is_decided() {
            let Some((at, answer)) = answers.recv().await else { break };
            if let Some(realm) = ballot.count(at, answer) {
                self.roster.suspect(at, &realm);
            }
        }
        // Later answers are no part of this decision: a retry finds the lease, or it is given back.
        drop(answers);
        if let Some(lease) = self.lease(&mut ballot, &votes, limit).await {
            return Ok(Attempt::Granted(lease));
        }
        self.withdraw(claim, &votes, &ballot.granted(), limit).await;
        ballot.refusal(votes.each.iter().any(|vote| vote.may_hold())).map(Attempt::Held)
    }

    async fn wait(&self, _claim: &Claim, _held: &Contention) -> Result<()> {
        std::future::pending().await
    }

    async fn renew(&self, batch: &RenewalBatch) -> Result<()> {
        self.renew_all(batch).await
    }

    async fn release(&self, claim: &Claim, _linger: Duration) -> Result<ReleaseOutcome> {
        self.release_everywhere(claim).await
    }

    fn token_raiser(&self) -> Option<&dyn TokenRaiser> {
        None
    }

    fn converter(&self) -> Option<&dyn Converter> {
        None
    }

    fn publisher(&self) -> Option<&dyn Publisher> {
        None
    }

    async fn inspect(&self, name: &LockName, space: Space) -> Result<Vec<HeldBy>> {
        Ok(self.read_holder(name, space).await?.into_iter().collect())
    }

    async fn list(&self, space: Space, after: Option<&LockName>, limit: usize) -> Result<Vec<(LockName, Vec<HeldBy>)>> {
        self.list_held(space, after, limit).await
    }

    async fn break_lock(&self, name: &LockName, seen: &HeldBy, how: BreakMode) -> Result<Option<Eviction>> {
        self.evict(name, seen, how).await
    }

    async fn new_realm(&self) -> Result<Realm> {
        self.roster.begin_anew().await
    }

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        Ok(self.findings().await)
    }

    async fn close(&self) {
        let mut closed = self.each(|_, store| async move {
            if let Ok(store) = store {
                store.close().await;
            }
        });
        while closed.recv().await.is_some() {}
    }
}

impl fmt::Debug for Quorum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quorum").field("members", &self.roster).field("longest_ttl", &self.longest_ttl).finish()
    }
}
