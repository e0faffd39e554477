//! [`QueueView`]: the queue of a lock, as one linearizable transaction read it.

use etcd_client::{GetResponse, KeyValue, TxnOpResponse, TxnResponse};
use lock_core::{Error, Result};

use crate::lock_key::LockKey;
use crate::queue_entry::QueueEntry;

/// The queue of a lock, as one linearizable transaction read it, seen from one claim.
#[derive(Debug)]
pub(crate) struct QueueView {
    pub(crate) revision: i64,
    /// The claim's own key.
    pub(crate) own: Option<LockKey>,
    /// The key with the lowest create revision: its owner holds the lock.
    pub(crate) head: Option<LockKey>,
    /// The next older key than the claim's own.
    pub(crate) predecessor: Option<LockKey>,
    /// Number of keys ahead, if it is known.
    pub(crate) ahead: Option<u32>,
}

impl QueueView {
    /// The view in the reply to [`acquire`](crate::transactions::acquire) or
    /// [`read_queue`](crate::transactions::read_queue).
    pub(crate) fn parse(entry: &QueueEntry, response: &TxnResponse) -> Result<QueueView> {
        let header = response.header().ok_or_else(|| Error::unexpected_reply("an answer of etcd has no header"))?;
        let mut view = QueueView::empty(header.revision());
        let (ops, enqueued) = outcome(response);
        match &ops[..] {
            // The lock is held, and nothing else was asked.
            [] => {}
            // Acquired: the queue was empty.
            [TxnOpResponse::Put(_)] => {
                view.own = Some(view.written(entry, &entry.value_if_free));
                view.head = view.own.clone();
            }
            [TxnOpResponse::Put(_), TxnOpResponse::Get(head), TxnOpResponse::Get(last)] if enqueued => {
                view.own = Some(view.written(entry, &entry.value_if_queued));
                view.head = LockKey::first(head);
                view.predecessor = last.kvs().iter().find(|kv| kv.key() != entry.key).map(LockKey::of);
                view.ahead = u32::try_from(last.count() - 1).ok();
            }
            [
                TxnOpResponse::Get(own),
                TxnOpResponse::Get(head),
                TxnOpResponse::Get(predecessor),
                TxnOpResponse::Get(older),
            ] => {
                view.own = LockKey::first(own);
                view.head = LockKey::first(head);
                view.predecessor = LockKey::first(predecessor);
                view.ahead = (!older.more()).then(|| u32::try_from(older.kvs().len()).unwrap_or(u32::MAX));
            }
            [TxnOpResponse::Get(own), TxnOpResponse::Get(queue)] => view.read(own, queue),
            _ => return Err(Error::unexpected_reply("a transaction of etcd has other answers than questions")),
        }
        Ok(view)
    }

    /// The view in the reply to [`enqueue_behind`](crate::transactions::enqueue_behind); `None` if
    /// it wrote nothing. The predecessor is missing if it is gone.
    pub(crate) fn parse_enqueued(
        entry: &QueueEntry,
        predecessor_revision: i64,
        response: &TxnResponse,
    ) -> Option<QueueView> {
        let mut view = QueueView::empty(response.header()?.revision());
        let ops = response.op_responses();
        let [TxnOpResponse::Put(_), TxnOpResponse::Get(predecessor), TxnOpResponse::Get(queue)] = &ops[..] else {
            return None;
        };
        view.own = Some(view.written(entry, &entry.value_if_queued));
        view.predecessor = first_at(predecessor, predecessor_revision);
        view.ahead = u32::try_from(queue.count() - 1).ok();
        Some(view)
    }

    /// The view in the reply to [`read_neighbours`](crate::transactions::read_neighbours); `None`
    /// if one of the two keys has changed.
    pub(crate) fn parse_unchanged(
        entry: &QueueEntry,
        predecessor_revision: i64,
        response: &TxnResponse,
    ) -> Option<QueueView> {
        let mut view = QueueView::empty(response.header()?.revision());
        let ops = response.op_responses();
        let [_, TxnOpResponse::Get(own), TxnOpResponse::Get(predecessor)] = &ops[..] else { return None };
        view.own = Some(LockKey::first(own).filter(|own| entry.is_current(own))?);
        view.predecessor = Some(first_at(predecessor, predecessor_revision)?);
        Some(view)
    }

    /// The view of a release of this process that read the entry as the head of the queue at
    /// `revision`.
    pub(crate) fn of_head(entry: &QueueEntry, revision: i64) -> QueueView {
        let mut view = QueueView::empty(revision);
        view.own = Some(key_of(entry, &entry.value_if_queued, entry.create_revision));
        view.head = view.own.clone();
        view
    }

    fn empty(revision: i64) -> QueueView {
        QueueView { revision, own: None, head: None, predecessor: None, ahead: None }
    }

    /// The entry's key as this transaction wrote it.
    fn written(&self, entry: &QueueEntry, value: &[u8]) -> LockKey {
        key_of(entry, value, self.revision)
    }

    /// Takes the claim's own key, and the rest from the oldest keys of the queue.
    fn read(&mut self, own: &GetResponse, queue: &GetResponse) {
        let own = LockKey::first(own);
        let is_older = |kv: &&KeyValue| own.as_ref().is_none_or(|own| kv.create_revision() < own.create_revision);
        let older = queue.kvs().iter().filter(is_older);
        self.predecessor = older.clone().next_back().map(LockKey::of);
        let ahead = (!queue.more()).then(|| u32::try_from(older.count()).unwrap_or(u32::MAX));
        self.ahead = ahead.filter(|_| own.is_some());
        self.head = LockKey::first(queue).or_else(|| own.clone());
        self.own = own;
    }
}

/// The operations of the branch that ran, and whether it created the entry behind others.
fn outcome(response: &TxnResponse) -> (Vec<TxnOpResponse>, bool) {
    let mut ops = response.op_responses();
    if matches!(ops.first(), Some(TxnOpResponse::Get(_))) {
        // The realm's mark.
        ops.remove(0);
    }
    match &ops[..] {
        [TxnOpResponse::Txn(inner)] => (inner.op_responses(), inner.succeeded()),
        _ => (ops, false),
    }
}

/// The entry's key with this value, created at `revision` and unchanged since.
fn key_of(entry: &QueueEntry, value: &[u8], revision: i64) -> LockKey {
    LockKey {
        key: entry.key.clone(),
        create_revision: revision,
        mod_revision: revision,
        lease_id: entry.lease_id,
        value: value.to_vec(),
    }
}

/// The key of a read, if it has this create revision.
fn first_at(get: &GetResponse, create_revision: i64) -> Option<LockKey> {
    LockKey::first(get).filter(|key| key.create_revision == create_revision)
}
