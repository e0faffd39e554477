//! Reads the holder of a lock, and lists the locks, that a majority of members shows as held.

use std::collections::BTreeMap;

use super::Quorum;
use crate::words::{HeldBy, LockName, Result, Space};

impl Quorum {
    pub(super) async fn read_holder(&self, name: &LockName, space: Space) -> Result<Option<HeldBy>> {
        let answers = self.all(|store| {
            let name = name.clone();
            async move { store.inspect(&name, space).await }
        });
        let (shown, missing) = self.answered(answers.await)?;
        // If it is unknown whether a majority has it, the lock is shown as held.
        let least = self.majority().saturating_sub(missing).max(1);
        Ok(self.rules().shown(shown.into_iter().flatten(), least))
    }

    pub(super) async fn list_held(
        &self,
        space: Space,
        after: Option<&LockName>,
        limit: usize,
    ) -> Result<Vec<(LockName, Vec<HeldBy>)>> {
        let mut held = Vec::new();
        let mut after = after.cloned();
        while held.len() < limit {
            let left = limit - held.len();
            let next = self.page(&mut held, space, after.as_ref(), left).await?;
            if next.is_none() {
                break;
            }
            after = next;
        }
        held.truncate(limit);
        Ok(held)
    }

    /// Adds the locks on the next page of every member. Returns the name up to which all members
    /// are complete, if one of them may have more.
    async fn page(
        &self,
        held: &mut Vec<(LockName, Vec<HeldBy>)>,
        space: Space,
        after: Option<&LockName>,
        size: usize,
    ) -> Result<Option<LockName>> {
        let answers = self.all(|store| {
            let after = after.cloned();
            async move { store.list(space, after.as_ref(), size).await }
        });
        let (pages, missing) = self.answered(answers.await)?;
        let full = pages.iter().filter(|page| page.len() >= size);
        let horizon = full.filter_map(|page| page.last()).map(|(name, _)| name.clone()).min();
        let mut shown: BTreeMap<LockName, Vec<HeldBy>> = BTreeMap::new();
        for (name, by) in pages.into_iter().flatten() {
            if horizon.as_ref().is_none_or(|horizon| name <= *horizon) {
                shown.entry(name).or_default().extend(by);
            }
        }
        let least = self.majority().saturating_sub(missing).max(1);
        let rules = self.rules();
        held.extend(shown.into_iter().filter_map(|(name, by)| Some((name, vec![rules.shown(by, least)?]))));
        Ok(horizon)
    }
}
