//! Deciding who belongs to a quorum: Paxos over the records that its members keep.

use std::time::Duration;

use tokio::task::JoinSet;

use super::call::random_between;
use super::forming::{FormingState, Next};
use super::present::PresentMember;
use super::record::Record;
use super::roll::Roll;

/// The most rounds in which a decision is tried before the caller goes on without it.
const MAX_ROUNDS: u32 = 12;

/// Deciding among this many members.
#[derive(Clone, Copy)]
pub(super) struct Decisions {
    pub(super) members: usize,
    /// Whether tokens promise to survive a crash.
    pub(super) is_durable: bool,
}

impl Decisions {
    /// Decides what has to be decided, as far as it can be now; gives what the members make of it in the end.
    pub(super) async fn decide_all(
        &self,
        mut present: Vec<PresentMember>,
        anew: bool,
    ) -> (Vec<PresentMember>, FormingState) {
        let latest =
            |present: &[PresentMember]| present.iter().map(|member| member.record.generation()).max().unwrap_or(0);
        let before = latest(&present);
        for round in 0..MAX_ROUNDS {
            let mut judged = self.classify(&present);
            if anew && judged.stands.as_ref().is_none_or(|roll| roll.generation <= before) {
                judged = FormingState { stands: None, next: Some(Next::Form(latest(&present) + 1)) };
            }
            let Some(next) = judged.next.clone() else {
                present = match &judged.stands {
                    Some(roll) => self.distribute(present, roll).await,
                    None => present,
                };
                return (present, judged);
            };
            let roll;
            (present, roll) = self.decide(present, &next).await;
            match roll {
                Some(roll) => present = self.distribute(present, &roll).await,
                // It stands, and the others who are at it may go on.
                None if judged.stands.is_some() && round >= 2 => break,
                None => {
                    let longest = Duration::from_millis(10) * (round + 1);
                    tokio::time::sleep(random_between(Duration::from_millis(1), longest)).await;
                    present = refreshed(present).await;
                }
            }
        }
        let judged = self.classify(&present);
        (present, judged)
    }

    fn classify(&self, present: &[PresentMember]) -> FormingState {
        if rolls(present).any(|roll| roll.of != self.members) {
            return FormingState::default();
        }
        let members: Vec<_> = present.iter().map(|member| (member.realm(), &member.record)).collect();
        FormingState::of(self.members, &members, self.is_durable)
    }

    /// Decides one thing, as in Paxos: a majority promises, and accepts; `None` if it does not.
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
        let those = present.iter().filter(|member| promised.contains(&member.at));
        let those: Vec<_> = those.map(|member| (member.realm(), &member.record)).collect();
        let roll = next.roll(self.members, &those);
        let (present, accepted) = {
            let (next, roll) = (next.clone(), roll.clone());
            let accept = move |record: &mut Record| next.part(record).is_some_and(|part| part.accept(&proposal, &roll));
            changed(present, &promised, accept).await
        };
        let decided = next.is_decided_by(self.members, accepted.len());
        (present, decided.then_some(roll))
    }

    /// Tells those who have a place in this roll of it.
    async fn distribute(&self, present: Vec<PresentMember>, roll: &Roll) -> Vec<PresentMember> {
        let told: Vec<_> = present.iter().filter(|member| roll.has(member.realm())).map(|member| member.at).collect();
        let roll = roll.clone();
        let learn = move |record: &mut Record| {
            record.learn(&roll);
            true
        };
        changed(present, &told, learn).await.0
    }
}

/// The rolls that these were told of.
pub(super) fn rolls(present: &[PresentMember]) -> impl Iterator<Item = &Roll> {
    present.iter().filter_map(|member| member.record.roll.as_ref())
}

/// Changes the records of those at these places; gives all of them, and at which the change was made.
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

/// What they keep now; of one that does not answer, what it kept.
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
