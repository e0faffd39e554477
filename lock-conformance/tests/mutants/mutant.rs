//! [`Mutant`]: the memory store behind a wrapper that can break any promise.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use lock_core::{
    BreakMode, Claim, FencingToken, HeldBy, Holder, LockName, LockStore, MemoryStore, Realm, Result, Space,
};

use super::flaw::Flaw;

/// The memory store with one flaw. Cloning gives the same store.
///
/// Each claim has a *shadow*, which the inner store sees in its place, so that a flaw can change
/// its name, its TTL and whether it queues. Without a flaw the wrapper must pass the suite.
#[derive(Clone, Debug)]
pub(crate) struct Mutant {
    pub(super) inner: MemoryStore,
    pub(super) flaw: Flaw,
    pub(super) state: Arc<State>,
    /// A realm of this handle alone.
    pub(super) handle: Realm,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// The claims behind the shadows, by the shadows' holders.
    pub(super) claims: Mutex<HashMap<Holder, Claim>>,
    /// The tokens of a mutant that makes its own.
    pub(super) tokens: Mutex<HashMap<LockName, u64>>,
    /// The granted holders, with the TTL and the token of the answer.
    pub(super) granted: Mutex<HashMap<Holder, (Duration, Option<FencingToken>)>>,
    /// The waiters of a mutant that has its own queue.
    pub(super) waiting: Mutex<HashMap<LockName, Vec<Holder>>>,
    /// The holders that have requested a lock.
    pub(super) requested: Mutex<HashSet<Holder>>,
    /// The records of a mutant that has its own, for each handle.
    pub(super) records: Mutex<HashMap<Realm, String>>,
    /// Number of calls, for flaws of every n-th one.
    pub(super) count: AtomicU64,
}

struct Shadow(Claim);

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

impl Mutant {
    pub(crate) fn new(flaw: Flaw) -> Mutant {
        Mutant { inner: MemoryStore::new(), flaw, state: Arc::default(), handle: Realm::fresh("mutant") }
    }

    /// Opens a handle, as another process would.
    pub(crate) fn open(&self) -> Mutant {
        Mutant { handle: Realm::fresh("mutant"), ..self.clone() }
    }

    /// The name in the inner store.
    pub(super) fn name(&self, name: &LockName) -> LockName {
        let text = name.as_str();
        let changed = match self.flaw {
            Flaw::NamesFoldCase => text.to_lowercase(),
            Flaw::NamesAreCut => text.char_indices().filter(|(at, _)| *at < 64).map(|(_, c)| c).collect(),
            Flaw::NamesEndAtASlash => text.split('/').find(|part| !part.is_empty()).unwrap_or("/").to_owned(),
            Flaw::NamesAreTrimmed => text.trim_end_matches(' ').to_owned(),
            Flaw::NamesAreDecoded => text.replace("%2F", "/"),
            Flaw::NamesLoseAccents => text.replace("e\u{301}", "é"),
            Flaw::NamesAreHashedToTwoBytes => {
                let hash = text.bytes().fold(5381_u64, |hash, byte| hash.wrapping_mul(33) ^ u64::from(byte));
                format!("{}", hash % 499)
            }
            _ => return name.clone(),
        };
        LockName::new(if changed.is_empty() { "_" } else { &changed }).unwrap()
    }

    /// The claim in the inner store.
    pub(super) fn shadow<'a>(&self, claim: &'a Claim) -> &'a Claim {
        let shadow = claim.store_state(|| {
            let name = self.name(claim.name());
            let ttl = match self.flaw {
                Flaw::KeepsHalfTheTtl => claim.ttl() / 2,
                Flaw::NeverExpires => claim.ttl() * 100,
                _ => claim.ttl(),
            };
            let queues = claim.queues() || self.flaw == Flaw::TriesQueue;
            let shadow = if queues { Claim::queueing(name, ttl) } else { Claim::new(name, ttl) };
            locked(&self.state.claims).insert(shadow.holder(), claim.clone());
            Shadow(shadow)
        });
        &shadow.0
    }

    /// Translates what the inner store shows of a holder: the claim in place of its shadow.
    pub(super) fn outer_view(&self, mut by: HeldBy) -> HeldBy {
        let claim = by.holder.and_then(|holder| locked(&self.state.claims).get(&holder).cloned());
        if let Some(claim) = claim {
            by.holder = Some(claim.holder());
            by.info = Some(claim.info().clone());
            if let Some((_, token)) = locked(&self.state.granted).get(&claim.holder()) {
                by.token = token.clone();
            }
        }
        match self.flaw {
            Flaw::ShowsAnotherHolder => by.holder = Some(Holder::fresh()),
            Flaw::ShowsNoInfo => by.info = None,
            Flaw::ShowsTooMuchTime => by.remaining = by.remaining.map(|time| time * 3),
            Flaw::ShowsAnotherToken => {
                by.token = by.token.map(|token| FencingToken::new(token.realm().clone(), token.number() + 1));
            }
            _ => {}
        }
        by
    }

    /// The inverse of [`outer_view`](Mutant::outer_view).
    pub(super) fn inner_view(&self, seen: &HeldBy) -> HeldBy {
        let claims = locked(&self.state.claims);
        let shadow = claims.iter().find(|(_, claim)| Some(claim.holder()) == seen.holder).map(|(shadow, _)| *shadow);
        let mut inner = seen.clone();
        inner.holder = shadow.or(inner.holder);
        inner
    }

    /// Breaks the lock of any holder; returns whether there was one.
    pub(super) async fn break_any_holder(&self, name: &LockName) -> Result<bool> {
        match self.inner.inspect(name, Space::Locks).await?.pop() {
            Some(seen) => Ok(self.inner.break_lock(name, &seen, BreakMode::Now).await?.is_some()),
            None => Ok(false),
        }
    }
}
