//! [`FormingState`]: what the members that answer make of their quorum.

use super::record::{Decision, Record};
use super::roll::Roll;
use crate::words::Realm;

/// What the members that answer make of their quorum.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FormingState {
    /// The roll by which it stands: a majority of all members answers and has a place in it.
    pub(super) stands: Option<Roll>,
    /// What has to be decided, so that it stands, or that more have a place.
    pub(super) next: Option<Next>,
}

/// What has to be decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Those who answer form the quorum of this generation. A majority of all members decides.
    Form(u64),
    /// These join the quorum. A majority of its founders decides, so that no two decisions miss each other: who has no
    /// place yet, or may have lost it, has no part in it.
    Join(Roll, Vec<Realm>),
}

/// A member that answers: the realm of its data, and what it keeps with them.
pub(super) type Present<'a> = (&'a Realm, &'a Record);

/// How many of so many members are a majority.
pub(super) fn majority(members: usize) -> usize {
    members / 2 + 1
}

impl FormingState {
    /// Judges what these of so many members say. `lasting` is whether members promise that their tokens survive a crash:
    /// then one that lost its data is no everyday matter, and an operator has to look at it.
    pub(super) fn of(members: usize, present: &[Present<'_>], lasting: bool) -> FormingState {
        let enough = majority(members);
        let form = |generation| (present.len() >= enough).then_some(Next::Form(generation));
        let latest = present.iter().map(|(_, record)| record.generation()).max().unwrap_or(0);
        let rolls = rolls(present);
        let seated = |roll: &Roll| present.iter().filter(|(member, _)| roll.has(member)).count();
        let stands = rolls.iter().find(|roll| seated(roll) >= enough).copied();
        let Some(roll) = stands.or_else(|| rolls.first().copied()) else {
            return FormingState { stands: None, next: form(1) };
        };
        // Who is of another quorum of this generation, or of a later one, is no newcomer.
        let newcomers: Vec<_> = present
            .iter()
            .filter(|(member, record)| !roll.has(member) && record.generation() < roll.generation)
            .map(|(member, _)| (*member).clone())
            .collect();
        let joining: Vec<_> = newcomers.iter().take(roll.free()).cloned().collect();
        let founders = present.iter().filter(|(member, _)| roll.is_founder(member)).count();
        let joins = !joining.is_empty() && roll.is_decided_by(founders) && seated(roll) + joining.len() >= enough;
        let next = if joins {
            Some(Next::Join(roll.clone(), joining))
        } else if !lasting && (stands.is_none() || newcomers.len() > roll.free()) {
            // Members that keep nothing lose their places whenever they restart, and that must not add up.
            form(latest + 1)
        } else {
            None
        };
        FormingState { stands: stands.cloned(), next }
    }
}

/// The rolls that members were told of: the latest of each quorum, and the latest quorum first.
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
    /// The roll to propose after these have promised: what may have been decided already is decided again.
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

    /// Whether this member has a part in deciding it.
    pub(super) fn asks(&self, member: &Realm) -> bool {
        match self {
            Next::Form(_) => true,
            Next::Join(roll, _) => roll.is_founder(member),
        }
    }

    /// A member's part in deciding it; `None` if it has none any more.
    pub(super) fn part<'r>(&self, record: &'r mut Record) -> Option<&'r mut Decision> {
        match self {
            Next::Form(generation) => record.forming(*generation),
            Next::Join(roll, _) => record.joining(roll),
        }
    }

    /// Whether so many of those who have a part decide it.
    pub(super) fn is_decided_by(&self, members: usize, by: usize) -> bool {
        match self {
            Next::Form(_) => by >= majority(members),
            Next::Join(roll, _) => roll.is_decided_by(by),
        }
    }
}

/// What was accepted last, by the order of proposals.
fn accepted<'a>(members: &[Present<'a>], of: impl Fn(&'a Record) -> &'a Decision) -> Option<&'a Roll> {
    let accepted = members.iter().filter_map(|(_, record)| of(record).accepted.as_ref());
    accepted.max_by(|(a, _), (b, _)| a.cmp(b)).map(|(_, roll)| roll)
}
