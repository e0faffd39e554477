//! [`Tokens`]: the realm, and the highest tokens that this process has seen in it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use lock_core::kit::locked;
use lock_core::{FencingToken, Holder, Realm};

/// The realm, and the highest tokens that this process has seen in it. A token that was seen is
/// never given again, even if the server has forgotten it.
#[derive(Debug, Default)]
pub(crate) struct Tokens(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// 32 hexadecimal digits; empty until it is read.
    id: Arc<str>,
    realm: Option<Realm>,
    /// By slot, since each slot has a counter of its own.
    highest: BTreeMap<u16, u64>,
}

/// True for the id of a realm, as the store keeps it.
pub(crate) fn is_realm_id(text: &str) -> bool {
    text.parse::<Holder>().is_ok()
}

impl Tokens {
    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.0)
    }

    /// The id of the realm, and the highest token seen in a slot.
    pub(crate) fn snapshot(&self, slot: u16) -> (Arc<str>, u64) {
        let state = self.state();
        (state.id.clone(), state.highest.get(&slot).copied().unwrap_or(0))
    }

    pub(crate) fn realm(&self) -> Realm {
        self.state().realm.clone().unwrap_or_else(|| realm_from_id(""))
    }

    /// Notes the realm of the data; true if it is another than before.
    pub(crate) fn adopt(&self, id: &str) -> bool {
        let mut state = self.state();
        let is_new = *state.id != *id;
        if is_new {
            *state = State { id: id.into(), realm: Some(realm_from_id(id)), highest: BTreeMap::new() };
        }
        is_new
    }

    /// Notes the token of a lock in the realm `id`, whose counter stands at `counter`, so that the
    /// counter is raised above it if that has fallen back. Returns false if the token is so far
    /// ahead that the counter cannot have given it: then another program or a hand wrote it, and it
    /// is ignored, since it would spoil the counter of all locks.
    pub(crate) fn observe(&self, id: &str, slot: u16, number: u64, counter: u64) -> bool {
        let mut state = self.state();
        if *state.id != *id {
            return true;
        }
        let highest = state.highest.entry(slot).or_default();
        let is_plausible = number <= counter.max(*highest).saturating_add(MAX_TOKEN_LEAD);
        if is_plausible {
            *highest = number.max(*highest);
        }
        is_plausible
    }

    /// Notes a token that was given in the realm `id`.
    pub(crate) fn record(&self, id: &str, slot: u16, number: u64) -> FencingToken {
        let mut state = self.state();
        if *state.id != *id {
            return FencingToken::new(realm_from_id(id), number);
        }
        let highest = state.highest.entry(slot).or_default();
        *highest = number.max(*highest);
        FencingToken::new(state.realm.clone().unwrap_or_else(|| realm_from_id(id)), number)
    }
}

/// Limit of the tokens that a counter gives between two observations: a million a second for a
/// week.
pub(crate) const MAX_TOKEN_LEAD: u64 = 1 << 40;

pub(crate) fn realm_from_id(id: &str) -> Realm {
    Realm::new(format!("redis:{id}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_far_ahead_of_its_counter_is_not_remembered() {
        let tokens = Tokens::default();
        tokens.adopt("r");
        let known = || tokens.snapshot(0).1;
        assert!(tokens.observe("r", 0, 1_000, 7) && known() == 1_000, "the counter has fallen back");
        assert!(tokens.observe("r", 0, 1 << 60, 1 << 60) && known() == 1 << 60, "it has come as far");
        assert!(tokens.observe("r", 1, MAX_TOKEN_LEAD, 0));
        assert!(!tokens.observe("r", 2, MAX_TOKEN_LEAD + 1, 0) && tokens.snapshot(2).1 == 0);
        assert!(!tokens.observe("r", 2, u64::MAX, 9) && tokens.snapshot(2).1 == 0);
        assert!(tokens.observe("another", 2, u64::MAX, 9) && tokens.snapshot(2).1 == 0, "of another realm");
    }
}
