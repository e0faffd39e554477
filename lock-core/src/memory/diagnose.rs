//! The diagnosis of a [`MemoryStore`].

use super::MemoryStore;
use crate::contract::Finding;
use crate::sync::locked;

impl MemoryStore {
    /// The codes of its findings. Every answer has each of them.
    pub const FINDING_CODES: &'static [&'static str] = &["scope", "retention", "realm", "locks"];

    pub(super) fn findings(&self) -> Vec<Finding> {
        let now = self.0.clock.now();
        let state = locked(&self.0.state);
        let held = state.records.values().filter_map(|record| record.held.as_ref());
        let held = held.filter(|held| state.until(held.until) > now).count();
        let queued: usize = state.records.values().map(|record| record.queue.len()).sum();
        let retention = match state.forgot {
            None => Finding::info("retention", "nothing was forgotten; all of it ends with the process"),
            Some(forgot) => {
                let text =
                    format!("all state was lost {:?} ago: earlier leases and tokens are forgotten", now.since(forgot));
                Finding::warning("retention", text)
            }
        };
        vec![
            Finding::info("scope", "the locks are in this process's memory, and exclude no other process"),
            retention,
            Finding::info("realm", locked(&self.0.realm).to_string()),
            Finding::info("locks", format!("{held} locks are held, and {queued} claims wait")),
        ]
    }
}
