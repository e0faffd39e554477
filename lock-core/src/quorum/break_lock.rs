//! Breaking a lock at every member.

use std::time::Duration;

use super::Quorum;
use crate::contract::{BreakMode, Eviction, LockStore};
use crate::words::{Effect, HeldBy, LockName, Result};

impl Quorum {
    /// Evicts the holder that was seen from every member that has it; `None` if no majority had it.
    pub(super) async fn evict(&self, name: &LockName, seen: &HeldBy, how: BreakMode) -> Result<Option<Eviction>> {
        let answers = self.all(|store| {
            let (name, seen) = (name.clone(), seen.clone());
            async move { evict_from(&*store, &name, seen, how).await }
        });
        let (mut evicted, mut failed) = (Vec::new(), Vec::new());
        for answer in answers.await {
            match answer {
                Ok(broken) => evicted.extend(broken),
                Err(error) => failed.push(error),
            }
        }
        if evicted.len() < self.majority() {
            return if evicted.len() + failed.len() < self.majority() {
                Ok(None)
            } else {
                Err(self.too_few(self.len() - failed.len(), &failed, Effect::Unknown))
            };
        }
        let free_in = evicted.iter().map(|broken| broken.free_in).max().unwrap_or(Duration::ZERO);
        let rules = self.rules();
        let by = rules.shown(evicted.iter().map(|broken| broken.evicted.clone()), 1).unwrap_or_else(|| seen.clone());
        // The smallest of the greatest tokens of a majority: every later majority shares a member
        // with it, and so has a greater token.
        let mut used: Vec<_> = evicted.iter().filter_map(|broken| rules.number(broken.token.as_ref()?)).collect();
        used.sort_unstable_by(|a, b| b.cmp(a));
        let before = by.token.as_ref().or(seen.token.as_ref()).map_or(0, |token| token.number());
        let used = used.get(self.majority() - 1).copied().filter(|used| rules.has_tokens && *used > before);
        Ok(Some(Eviction::new(by, used.map(|number| rules.token(number)), free_in)))
    }
}

async fn evict_from(store: &dyn LockStore, name: &LockName, seen: HeldBy, how: BreakMode) -> Result<Option<Eviction>> {
    if !seen.revoked {
        return store.break_lock(name, &seen, how).await;
    }
    // Each member blocks a revoked lock with a holder of its own.
    match store.inspect(name, seen.share.space()).await?.into_iter().find(|by| by.revoked) {
        Some(seen) => store.break_lock(name, &seen, how).await,
        None => Ok(None),
    }
}
