//! The holder that a quorum shows, combined from its members.

use std::time::Duration;

use super::rules::Rules;
use crate::words::{HeldBy, Holder};

impl Rules {
    /// The holder that most members show, if at least `least` members do.
    pub(super) fn shown(&self, members: impl IntoIterator<Item = HeldBy>, least: usize) -> Option<HeldBy> {
        let mut groups: Vec<(Option<Holder>, Vec<HeldBy>)> = Vec::new();
        for by in members {
            // Each member blocks a revoked lock with a made-up holder of its own.
            let holder = by.holder.filter(|_| !by.revoked);
            match groups.iter_mut().find(|(other, group)| *other == holder && group[0].revoked == by.revoked) {
                Some((_, group)) => group.push(by),
                None => groups.push((holder, vec![by])),
            }
        }
        let (_, group) = groups.into_iter().max_by_key(|(_, group)| group.len())?;
        (group.len() >= least).then(|| self.combined(group))
    }

    fn combined(&self, group: Vec<HeldBy>) -> HeldBy {
        let mut by = group[0].clone();
        by.remaining = self.of_majority(group.iter().filter_map(|by| by.remaining).collect());
        by.held_for = self.of_majority(group.iter().filter_map(|by| by.held_for).collect());
        let numbers: Vec<_> = group.iter().filter_map(|by| self.number(by.token.as_ref()?)).collect();
        let of_most = |number: &&u64| numbers.iter().filter(|other| other == number).count() >= self.majority;
        by.token = numbers.iter().find(of_most).filter(|_| self.has_tokens).map(|number| self.token(*number));
        by.ahead = None;
        by
    }

    /// The longest time that a majority of the members, or all of these, reach.
    fn of_majority(&self, mut times: Vec<Duration>) -> Option<Duration> {
        times.sort_unstable_by(|a, b| b.cmp(a));
        times.get(self.majority.min(times.len()).saturating_sub(1)).copied()
    }
}
