//! [`Tokens`]: the realm, and the highest tokens that this process has seen in it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lock_core::{FencingToken, Holder, Realm};

/// The realm, and the highest tokens that this process has seen in it: what was seen is never given again, even if the
/// server has forgotten it.
#[derive(Debug, Default)]
pub(crate) struct Tokens(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// 32 hexadecimal digits; empty until it is read.
    id: Arc<str>,
    realm: Option<Realm>,
    /// By slot, since each has a counter of its own.
    highest: BTreeMap<u16, u64>,
}

/// Whether a text is a realm's, as it stands in the store.
pub(crate) fn is_realm(text: &str) -> bool {
    text.parse::<Holder>().is_ok()
}

impl Tokens {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The realm as it stands in the store, and the highest token seen of a slot.
    pub(crate) fn known(&self, slot: u16) -> (Arc<str>, u64) {
        let state = self.state();
        (state.id.clone(), state.highest.get(&slot).copied().unwrap_or(0))
    }

    pub(crate) fn realm(&self) -> Realm {
        self.state().realm.clone().unwrap_or_else(|| realm_of(""))
    }

    /// The data is of this realm; false if it was known already.
    pub(crate) fn adopt(&self, id: &str) -> bool {
        let mut state = self.state();
        let is_new = *state.id != *id;
        if is_new {
            *state = State { id: id.into(), realm: Some(realm_of(id)), highest: BTreeMap::new() };
        }
        is_new
    }

    /// A token that was given in the realm `id`.
    pub(crate) fn given(&self, id: &str, slot: u16, number: u64) -> FencingToken {
        let mut state = self.state();
        if *state.id != *id {
            return FencingToken::new(realm_of(id), number);
        }
        let highest = state.highest.entry(slot).or_default();
        *highest = number.max(*highest);
        FencingToken::new(state.realm.clone().unwrap_or_else(|| realm_of(id)), number)
    }
}

pub(crate) fn realm_of(id: &str) -> Realm {
    Realm::new(format!("redis:{id}"))
}
