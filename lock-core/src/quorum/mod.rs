//! [`Quorum`]: a store over several independent stores, of which a majority decides.

mod ballot;
mod break_lock;
mod call;
mod decision;
mod driver;
mod forming;
mod gathering;
mod list;
mod member;
mod membership;
mod present;
mod promises;
mod record;
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
    Attempt, BreakMode, Claim, Contention, Eviction, Lease, LockStore, RaiseOutcome, ReleaseOutcome, RenewalBatch,
    TokenRaiser,
};
use crate::words::{Effect, Error, ErrorKind, FencingToken, Guarantees, HeldBy, LockName, Realm, Result};

/// A store over several independent stores, of any kind, of which a majority decides: the algorithm that Redis calls
/// Redlock, with every rule of its specification, and fencing tokens where the members can raise theirs.
///
/// - All members are asked at once, each with its own short time-out. Who is granted the lock by a majority has it, for
///   as long as the shortest of those leases lasts, counted from before the first request left.
/// - Who does not get a majority gives everything back at once, also where no answer came, and looks again after a
///   random time.
/// - A lease is renewed if a majority renews it, and lost if so many members no longer have it that none can.
/// - A member that may have forgotten what it granted within the longest TTL has no vote ([`Retention`](crate::Retention)):
///   the rule that the specification calls *delayed restarts*.
/// - A token is the greatest of those of a granting majority, and is given out only after a majority has
///   [raised](crate::TokenRaiser) its own to it.
///
/// The members must be independent and different. Leases that sessions carry have no vote, so that stores whose
/// sessions end leases are refused.
///
/// A quorum is formed once, by a majority of its members or more, and has a realm of its own from then on. Who belongs to
/// it is kept at the members ([`RecordStore`](crate::RecordStore)): any majority of those that have a place opens it. A member that was
/// away joins by itself. A place belongs to a member's data: one that lost them has no vote until there is a free place,
/// or a new realm ([`LockStore::new_realm`]). Members whose tokens do not promise to survive a crash lose their places
/// whenever they lose their data; those then form a new quorum by themselves, in a new realm.
///
/// With n members a majority is n / 2 + 1, and so many may fail as are left: none of 1 or 2, one of 3 or 4, two of 5.
pub struct Quorum {
    roster: Arc<Roster>,
    longest_ttl: Duration,
    member_timeout: Option<Duration>,
}

impl Quorum {
    /// The longest TTL that is granted, and for which a member that may have forgotten leases has no vote, unless set
    /// otherwise.
    pub const DEFAULT_LONGEST_TTL: Duration = Duration::from_secs(60);

    /// Opens the quorum of these members, of which a majority must be there; forms it if that was never done. Those that
    /// are away join when they are there. Where not every member can keep who belongs to the quorum, all must be there.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) for no members, for two with the same data, and for one whose leases
    /// do not each end by a TTL of their own. [`Unavailable`](ErrorKind::Unavailable), or the kind that all failures
    /// share, if too few members answer within 4 seconds; the text says which did not.
    ///
    /// # Cancel safety
    ///
    /// The quorum may have been formed, which is done once in any case.
    pub async fn open<M: Into<Member>>(members: impl IntoIterator<Item = M>) -> Result<Quorum> {
        let members = members.into_iter().map(Into::into).collect();
        let roster = Roster::open(members).await?;
        Ok(Quorum { roster, longest_ttl: Quorum::DEFAULT_LONGEST_TTL, member_timeout: None })
    }

    /// With another longest TTL; the same for everybody who uses these members.
    #[must_use]
    pub fn longest_ttl(mut self, ttl: Duration) -> Quorum {
        self.longest_ttl = ttl;
        self
    }

    /// With another time for one call to one member; by default a tenth of the TTL, from 50 to 500 milliseconds.
    #[must_use]
    pub fn member_timeout(mut self, limit: Duration) -> Quorum {
        self.member_timeout = Some(limit);
        self
    }

    fn limit(&self, ttl: Duration) -> Duration {
        // The specification proposes 5 to 50 ms for a TTL of 10 s and Redis in one network; members may be slower.
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
    /// Unavailable while too few of those answer that have a place in the quorum.
    fn open_ballot(&self) -> Result<Ballot> {
        let rules = self.rules();
        if rules.has_tokens && rules.membership.roll.is_none() {
            self.roster.maintain();
            return Err(rules.membership.refusal());
        }
        Ok(Ballot::new(rules, self.longest_ttl))
    }

    /// The lease of a ballot that is won; `None` if it is not, or no majority acknowledged its token.
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

    /// The second phase: a majority makes the greatest token of the granting majority its own.
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

    /// Asks every member at once, each in a task of its own that goes on to its end when nobody waits for it any more;
    /// the answers, as they come. A member that is away is called with the error that says so.
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
                // Nobody listens when it was decided without this one.
                let _ = answer.send((at, call.await));
            });
        }
        answers
    }

    /// The answers of all members to a question that changes nothing.
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

    /// The answers that came, if there is a majority of them, and how many did not.
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

    /// The error of a step for which too few members were there.
    fn too_few(&self, there: usize, failed: &[Error], effect: Effect) -> Error {
        too_few(there, self.len(), failed, effect)
    }

    /// Gives back at every member what the claim may have there; comes back when those of `awaited` have answered.
    async fn withdraw(&self, claim: &Claim, votes: &Arc<Votes>, awaited: &[usize], limit: Duration) {
        let held: Vec<_> = (0..self.len()).filter(|at| votes.each[*at].may_hold()).collect();
        if !held.is_empty() {
            // "A fresh holder per attempt": a release that comes a second time, late, must not meet a lease of its holder.
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
            return Err(Error::refused(ErrorKind::InvalidConfig, text));
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
        // What still comes is no part of this decision; it is found by the next, or given back in its turn.
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

    async fn renew(&self, batch: &RenewalBatch) {
        self.renew_all(batch).await;
    }

    async fn release(&self, claim: &Claim) -> Result<ReleaseOutcome> {
        let (votes, limit) = (self.votes(claim), self.limit(claim.ttl()));
        votes.forget();
        // To all members, also where no answer came or the answer was no.
        let mut answers = self.each(|at, store| {
            let vote = votes.each[at].clone();
            async move { vote.release(at, &*store?, limit).await }
        });
        let (mut held, mut not_held, mut failed) = (0, 0, Vec::new());
        while let Some((_, answer)) = answers.recv().await {
            match answer {
                Ok(ReleaseOutcome::Held) => held += 1,
                Ok(ReleaseOutcome::NotHeld) => not_held += 1,
                Err(error) => failed.push(error),
            }
            if held >= self.majority() {
                return Ok(ReleaseOutcome::Held);
            }
            if not_held >= self.rules().too_many() {
                return Ok(ReleaseOutcome::NotHeld);
            }
        }
        Err(self.too_few(held + not_held, &failed, Effect::Unknown))
    }

    fn token_raiser(&self) -> Option<&dyn TokenRaiser> {
        None
    }

    async fn inspect(&self, name: &LockName) -> Result<Option<HeldBy>> {
        let name = name.clone();
        let answers = self.all(|store| {
            let name = name.clone();
            async move { store.inspect(&name).await }
        });
        let (shown, missing) = self.answered(answers.await)?;
        // Where it is unknown whether a majority has it, the lock may be held.
        let least = self.majority().saturating_sub(missing).max(1);
        Ok(self.rules().shown(shown.into_iter().flatten(), least))
    }

    async fn list(&self, after: Option<&LockName>, limit: usize) -> Result<Vec<(LockName, HeldBy)>> {
        self.list_held(after, limit).await
    }

    async fn break_lock(&self, name: &LockName, seen: &HeldBy, how: BreakMode) -> Result<Option<Eviction>> {
        self.evict(name, seen, how).await
    }

    async fn new_realm(&self) -> Result<Realm> {
        self.roster.begin_anew().await
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
