//! Decides on the members of a quorum, by Paxos over the records that its members keep.

use std::time::Duration;

use tokio::task::JoinSet;

use super::call::random_between;
use super::forming::{FormingState, Next};
use super::present::PresentMember;
use super::record::Record;
use super::roll::Roll;

/// Maximum number of rounds before the caller continues without a decision.
const MAX_ROUNDS: u32 = 12;

/// Decisions of a quorum of this many members.
#[derive(Clone, Copy)]
pub(super) struct Decisions {
    pub(super) members: usize,
    /// True if the tokens promise to survive a crash.
    pub(super) is_durable: bool,
}

impl Decisions {
    /// Makes all pending decisions, as far as that is possible now. Returns the members, and the
    /// state of their quorum afterwards.
    pub(super) async fn decide_all(
        &self,
        mut present: Vec<PresentMember>,
        anew: bool,
    ) -> (Vec<PresentMember>, FormingState) {
        let latest =
            |present: &[PresentMember]| present.iter().map(|member| member.record.generation()).max().unwrap_or(0);
        let before = latest(&present);
        for round in 0..MAX_ROUNDS {
            let mut state = self.classify(&present);
            if anew && state.stands.as_ref().is_none_or(|roll| roll.generation <= before) {
                state = FormingState { stands: None, next: Some(Next::Form(latest(&present) + 1)) };
            }
            let Some(next) = state.next.clone() else {
                present = match &state.stands {
                    Some(roll) => self.distribute(present, roll).await,
                    None => present,
                };
                return (present, state);
            };
            let roll;
            (present, roll) = self.decide(present, &next).await;
            match roll {
                Some(roll) => present = self.distribute(present, &roll).await,
                // The quorum stands, and other clients that are deciding may continue.
                None if state.stands.is_some() && round >= 2 => break,
                None => {
                    let longest = Duration::from_millis(10) * (round + 1);
                    tokio::time::sleep(random_between(Duration::from_millis(1), longest)).await;
                    present = refreshed(present).await;
                }
            }
        }
        let state = self.classify(&present);
        (present, state)
    }

    fn classify(&self, present: &[PresentMember]) -> FormingState {
        if rolls(present).any(|roll| roll.of != self.members) {
            return FormingState::default();
        }
        let members: Vec<_> = present.iter().map(|member| (member.realm(), &member.record)).collect();
        FormingState::of(self.members, &members, self.is_durable)
    }

    /// Makes one decision, as in Paxos: a majority promises, and then accepts; `None` if it does
    /// not.
    async fn decide(&self, present: Vec<PresentMember>, next: &Next) -> (Vec<PresentMember>, Option<Roll>) {
        let proposal = Record::propose(present.iter().map(|member| &member.record));
        let asked: Vec<_> = present.iter().filter(|member| next.asks(member.realm())).map(|member| member.at).collect();
        let (present, promised) = {
            let (next, proposal) = (next.clone(), proposal.clone());
            changed(present, &asked, move |record| next.part(record).is_some_and(|part| part.promise(&proposal))).await
        };
        if !next.is_decided_by(self.members, promised.len()) {
            return (present, None);
        }
        let promising = present.iter().filter(|member| promised.contains(&member.at));
        let promising: Vec<_> = promising.map(|member| (member.realm(), &member.record)).collect();
        let roll = next.roll(self.members, &promising);
        let (present, accepted) = {
            let (next, roll) = (next.clone(), roll.clone());
            let accept = move |record: &mut Record| next.part(record).is_some_and(|part| part.accept(&proposal, &roll));
            changed(present, &promised, accept).await
        };
        let decided = next.is_decided_by(self.members, accepted.len());
        (present, decided.then_some(roll))
    }

    /// Distributes this roll to the members that have a place in it.
    async fn distribute(&self, present: Vec<PresentMember>, roll: &Roll) -> Vec<PresentMember> {
        let placed: Vec<_> = present.iter().filter(|member| roll.has(member.realm())).map(|member| member.at).collect();
        let roll = roll.clone();
        let learn = move |record: &mut Record| {
            record.learn(&roll);
            true
        };
        changed(present, &placed, learn).await.0
    }
}

/// The rolls that these members have learned.
pub(super) fn rolls(present: &[PresentMember]) -> impl Iterator<Item = &Roll> {
    present.iter().filter_map(|member| member.record.roll.as_ref())
}

/// Changes the records of the members with these indices. Returns all members, and the indices at
/// which the change was made.
async fn changed(
    present: Vec<PresentMember>,
    which: &[usize],
    change: impl Fn(&mut Record) -> bool + Clone + Send + Sync + 'static,
) -> (Vec<PresentMember>, Vec<usize>) {
    let (asked, mut all): (Vec<_>, Vec<_>) = present.into_iter().partition(|member| which.contains(&member.at));
    let mut changing = JoinSet::new();
    for member in asked {
        let change = change.clone();
        changing.spawn(async move {
            let mut changed = member.clone();
            let made = changed.change(change).await;
            (changed, made)
        });
    }
    let mut done = Vec::new();
    while let Some(answer) = changing.join_next().await {
        let Ok((member, made)) = answer else { continue };
        match made {
            Ok(true) => done.push(member.at),
            Ok(false) => {}
            Err(error) => {
                tracing::debug!(target: "leasehold", store = "quorum", member = member.at + 1, %error, "no part in a decision");
            }
        }
        all.push(member);
    }
    all.sort_unstable_by_key(|member| member.at);
    (all, done)
}

/// Reads the records again. A member that does not answer keeps its last known record.
async fn refreshed(present: Vec<PresentMember>) -> Vec<PresentMember> {
    let mut asking = JoinSet::new();
    for member in present {
        asking.spawn(async move { PresentMember::ask(member.at, member.store.clone()).await.unwrap_or(member) });
    }
    let mut all = Vec::new();
    while let Some(member) = asking.join_next().await {
        all.extend(member.ok());
    }
    all.sort_unstable_by_key(|member| member.at);
    all
}
