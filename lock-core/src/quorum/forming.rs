//! [`FormingState`]: the state of a quorum, derived from the members that answer.

use super::record::{Decision, Record};
use super::roll::Roll;
use crate::words::Realm;

/// State of a quorum, derived from the members that answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FormingState {
    /// The roll on which it stands: a majority of all members answers and has a place in it.
    pub(super) stands: Option<Roll>,
    /// The next decision, so that the quorum stands, or that more members have a place.
    pub(super) next: Option<Next>,
}

/// The next decision of a quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The members that answer form the quorum of this generation. A majority of all members
    /// decides.
    Form(u64),
    /// These members join the quorum. A majority of its founders decides, so that any two decisions
    /// share a founder: a member that has no place yet, or may have lost it, has no part.
    Join(Roll, Vec<Realm>),
}

/// A member that answers: the realm of its data, and its record.
pub(super) type Present<'a> = (&'a Realm, &'a Record);

/// Number of members that are a majority of `members`.
pub(super) fn majority(members: usize) -> usize {
    members / 2 + 1
}

impl FormingState {
    /// Derives the state from the members that are present, out of `members`. `lasting` means that
    /// members promise that their tokens survive a crash: then a loss of data is exceptional, and
    /// an operator has to decide.
    pub(super) fn of(members: usize, present: &[Present<'_>], lasting: bool) -> FormingState {
        let enough = majority(members);
        let form = |generation| (present.len() >= enough).then_some(Next::Form(generation));
        let rolls = rolls(present);
        let seated = |roll: &Roll| present.iter().filter(|(member, _)| roll.has(member)).count();
        let founders = |roll: &Roll| present.iter().filter(|(member, _)| roll.is_founder(member)).count();
        // A roll that was accepted, but whose founders have lost their data since, would be proposed
        // again for ever: nobody that is present learns it.
        let abandoned = |record: &Record| {
            let roll = record.forming.accepted.as_ref().map(|(_, roll)| roll)?;
            let may_stand = seated(roll) >= enough || roll.is_decided_by(founders(roll));
            (!lasting && !may_stand).then_some(roll.generation)
        };
        let generations = |record: &Record| record.generation().max(abandoned(record).unwrap_or(0));
        let latest = present.iter().map(|(_, record)| generations(record)).max().unwrap_or(0);
        let stands = rolls.iter().find(|roll| seated(roll) >= enough).copied();
        let Some(roll) = stands.or_else(|| rolls.first().copied()) else {
            return FormingState { stands: None, next: form(latest + 1) };
        };
        // A member of another quorum of this generation, or of a later one, is no newcomer.
        let newcomers: Vec<_> = present
            .iter()
            .filter(|(member, record)| !roll.has(member) && record.generation() < roll.generation)
            .map(|(member, _)| (*member).clone())
            .collect();
        let joining: Vec<_> = newcomers.iter().take(roll.free()).cloned().collect();
        let joins = !joining.is_empty() && roll.is_decided_by(founders(roll)) && seated(roll) + joining.len() >= enough;
        let next = if joins {
            Some(Next::Join(roll.clone(), joining))
        } else if !lasting && (stands.is_none() || newcomers.len() > roll.free()) {
            // Members without persistence lose their places at each restart, and these losses must
            // not accumulate.
            form(latest + 1)
        } else {
            None
        };
        FormingState { stands: stands.cloned(), next }
    }
}

/// The rolls that members have learned: the latest of each quorum, and the latest quorum first.
fn rolls<'a>(present: &[Present<'a>]) -> Vec<&'a Roll> {
    let mut rolls: Vec<&Roll> = present.iter().filter_map(|(_, record)| record.roll.as_ref()).collect();
    rolls.sort_by(|a, b| b.age(a).then_with(|| a.realm.as_str().cmp(b.realm.as_str())));
    let mut seen: Vec<&Realm> = Vec::new();
    rolls.retain(|roll| {
        let is_first = !seen.contains(&&roll.realm);
        seen.push(&roll.realm);
        is_first
    });
    rolls
}

impl Next {
    /// The roll to propose after these members have promised. A roll that may already have been
    /// decided is proposed again.
    pub(super) fn roll(&self, members: usize, promised: &[Present<'_>]) -> Roll {
        match self {
            Next::Form(generation) => match accepted(promised, |record| &record.forming) {
                Some(roll) if roll.generation >= *generation => roll.clone(),
                _ => {
                    let founders = promised.iter().map(|(member, _)| (*member).clone()).collect();
                    Roll::formed(*generation, members, founders)
                }
            },
            Next::Join(roll, joining) => {
                accepted(promised, |record| &record.joining).unwrap_or(roll).joined_by(joining)
            }
        }
    }

    /// True if this member has a part in the decision.
    pub(super) fn asks(&self, member: &Realm) -> bool {
        match self {
            Next::Form(_) => true,
            Next::Join(roll, _) => roll.is_founder(member),
        }
    }

    /// A member's part in the decision; `None` if it no longer has one.
    pub(super) fn part<'r>(&self, record: &'r mut Record) -> Option<&'r mut Decision> {
        match self {
            Next::Form(generation) => record.forming(*generation),
            Next::Join(roll, _) => record.joining(roll),
        }
    }

    /// True if `by` of the members that have a part are enough to decide.
    pub(super) fn is_decided_by(&self, members: usize, by: usize) -> bool {
        match self {
            Next::Form(_) => by >= majority(members),
            Next::Join(roll, _) => roll.is_decided_by(by),
        }
    }
}

/// The roll that was accepted last, by the order of proposals.
fn accepted<'a>(members: &[Present<'a>], of: impl Fn(&'a Record) -> &'a Decision) -> Option<&'a Roll> {
    let accepted = members.iter().filter_map(|(_, record)| of(record).accepted.as_ref());
    accepted.max_by(|(a, _), (b, _)| a.cmp(b)).map(|(_, roll)| roll)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::Realm;

    /// The record of a member that accepted this roll but never learned it.
    fn accepted(roll: &Roll) -> Record {
        let mut record = Record::default();
        let proposal = Record::propose(std::iter::once(&record));
        let part = record.forming(roll.generation).expect("a part in it");
        assert!(part.promise(&proposal) && part.accept(&proposal, roll));
        record
    }

    fn next<const N: usize>(roll: &Roll, present: [&str; N], lasting: bool) -> Option<Next> {
        let (members, record) = (present.map(Realm::new), accepted(roll));
        let present: Vec<_> = members.iter().map(|member| (member, &record)).collect();
        FormingState::of(roll.of, &present, lasting).next
    }

    #[test]
    fn members_that_lost_their_data_after_a_roll_was_accepted_form_the_next_quorum() {
        let roll = Roll::formed(2, 3, vec![Realm::new("a"), Realm::new("b")]);
        assert_eq!(next(&roll, ["x", "y", "z"], false), Some(Next::Form(3)));
        assert_eq!(next(&roll, ["a", "y", "z"], false), Some(Next::Form(3)));
    }

    #[test]
    fn a_roll_that_was_accepted_and_can_stand_is_proposed_again() {
        let roll = Roll::formed(2, 3, vec![Realm::new("a"), Realm::new("b")]);
        assert_eq!(next(&roll, ["a", "b", "z"], false), Some(Next::Form(1)));
        // A majority of its founders can let the others join.
        let five = Roll::formed(1, 5, ["a", "b", "c"].map(Realm::new).to_vec());
        assert_eq!(next(&five, ["a", "b", "z"], false), Some(Next::Form(1)));
        // Where members promise to remember, it may be decided whoever is here.
        assert_eq!(next(&roll, ["x", "y", "z"], true), Some(Next::Form(1)));
    }
}
