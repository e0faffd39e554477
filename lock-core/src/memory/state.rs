//! [`State`]: the locks and sessions of a [`MemoryStore`](super::MemoryStore).

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::contract::Claim;
use crate::words::{Holder, HolderInfo, LockName, Moment};

#[derive(Default)]
pub(super) struct State {
    pub(super) records: BTreeMap<LockName, Record>,
    /// End of each session, by its key.
    pub(super) sessions: HashMap<u64, Moment>,
    /// The last token: one counter for all names, which rises with each grant and outlives every
    /// record.
    pub(super) last_token: u64,
    pub(super) last_session: u64,
    /// Moment of the last [`forget`](super::MemoryStore::forget).
    pub(super) forgot: Option<Moment>,
    /// The record for a quorum.
    pub(super) kept: Option<String>,
}

/// A lock that is held or waited for.
#[derive(Default)]
pub(super) struct Record {
    pub(super) held: Option<Held>,
    pub(super) queue: VecDeque<QueueEntry>,
}

pub(super) struct Held {
    pub(super) holder: Holder,
    pub(super) info: HolderInfo,
    pub(super) token: u64,
    pub(super) since: Moment,
    pub(super) until: LeaseEnd,
    pub(super) revoked: bool,
}

pub(super) struct QueueEntry {
    pub(super) holder: Holder,
    pub(super) until: LeaseEnd,
    pub(super) wakeup: Arc<Notify>,
}

#[derive(Clone, Copy)]
pub(super) enum LeaseEnd {
    Moment(Moment),
    Session(u64),
}

impl State {
    pub(super) fn until(&self, until: LeaseEnd) -> Moment {
        match until {
            LeaseEnd::Moment(moment) => moment,
            LeaseEnd::Session(key) => self.sessions.get(&key).copied().unwrap_or(Moment::from_nanos(0)),
        }
    }

    /// Removes the lease and the queue entries that have ended by `now`.
    pub(super) fn expire(&mut self, name: &LockName, now: Moment) {
        let Some(mut record) = self.records.remove(name) else { return };
        record.held = record.held.filter(|held| self.until(held.until) > now);
        record.queue.retain(|entry| self.until(entry.until) > now);
        self.put_back(name, record);
    }

    /// Grants the lock to `claim` until then, if it is free or the claim has it. Returns the token.
    pub(super) fn grant(&mut self, claim: &Claim, now: Moment, until: LeaseEnd) -> Option<u64> {
        if let Some(held) = self.held_mut(claim) {
            held.until = until;
            return Some(held.token);
        }
        let record = self.records.entry(claim.name().clone()).or_default();
        if record.held.is_some() || record.queue.front().is_some_and(|head| head.holder != claim.holder()) {
            return None;
        }
        self.last_token += 1;
        record.queue.pop_front();
        record.held = Some(Held {
            holder: claim.holder(),
            info: claim.info().clone(),
            token: self.last_token,
            since: now,
            until,
            revoked: false,
        });
        Some(self.last_token)
    }

    /// Extends the claim's entry in the queue until then, or adds one if the claim queues. Returns
    /// the number of entries ahead.
    pub(super) fn enqueue(&mut self, claim: &Claim, until: LeaseEnd, wakeup: &Arc<Notify>) -> Option<usize> {
        let queue = &mut self.records.entry(claim.name().clone()).or_default().queue;
        match queue.iter().position(|entry| entry.holder == claim.holder()) {
            Some(ahead) => {
                queue[ahead].until = until;
                Some(ahead)
            }
            None if claim.queues() => {
                queue.push_back(QueueEntry { holder: claim.holder(), until, wakeup: wakeup.clone() });
                Some(queue.len() - 1)
            }
            None => None,
        }
    }

    pub(super) fn put_back(&mut self, name: &LockName, record: Record) {
        if let Some(head) = record.queue.front().filter(|_| record.held.is_none()) {
            head.wakeup.notify_one();
        }
        if record.held.is_some() || !record.queue.is_empty() {
            self.records.insert(name.clone(), record);
        }
    }

    /// Opens a session that lasts until then; returns its id.
    pub(super) fn open_session(&mut self, until: Moment) -> u64 {
        self.last_session += 1;
        self.sessions.insert(self.last_session, until);
        self.last_session
    }

    /// Extends a session. Returns false if it has ended.
    pub(super) fn extend_session(&mut self, id: u64, now: Moment, ttl: Duration) -> bool {
        let until = self.sessions.get_mut(&id).filter(|until| **until > now);
        match until {
            Some(until) => *until = now.after(ttl),
            None => drop(self.sessions.remove(&id)),
        }
        self.sessions.contains_key(&id)
    }

    /// The entries of a session: locks and places in queues, with their holders.
    pub(super) fn entries(&self, id: u64) -> HashSet<(LockName, Holder)> {
        let mut entries = HashSet::new();
        for (name, record) in &self.records {
            let held = record.held.iter().map(|held| (held.until, held.holder));
            let queued = record.queue.iter().map(|entry| (entry.until, entry.holder));
            let own = held.chain(queued).filter(|(until, _)| until.is_session(id));
            entries.extend(own.map(|(_, holder)| (name.clone(), holder)));
        }
        entries
    }

    pub(super) fn held_mut(&mut self, claim: &Claim) -> Option<&mut Held> {
        self.records.get_mut(claim.name())?.held.as_mut().filter(|held| held.holder == claim.holder())
    }

    /// Deletes the entry of this holder, if the session has it.
    pub(super) fn delete_entry(&mut self, name: &LockName, holder: Holder, id: u64) {
        let Some(mut record) = self.records.remove(name) else { return };
        let is_own = |until: LeaseEnd, other: Holder| until.is_session(id) && other == holder;
        record.held = record.held.filter(|held| !is_own(held.until, held.holder));
        record.queue.retain(|entry| !is_own(entry.until, entry.holder));
        self.put_back(name, record);
    }
}

impl LeaseEnd {
    fn is_session(self, id: u64) -> bool {
        matches!(self, LeaseEnd::Session(other) if other == id)
    }
}
