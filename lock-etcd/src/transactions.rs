//! The transactions on the queue of one lock.

use etcd_client::{Compare, CompareOp, GetOptions, PutOptions, SortOrder, SortTarget, Txn, TxnOp};

use crate::queue_entry::QueueEntry;
use crate::realm_mark::RealmMark;

/// The action of [`acquire`] if the lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfHeld {
    DoNothing,
    /// Read the holder.
    Read,
    /// Create the entry at the end of the queue.
    Enqueue,
}

/// Maximum number of keys that are read to count those ahead of a waiter.
const MAX_COUNTED_AHEAD: i64 = 100;

/// Acquires the lock if its queue is empty, does something else `if_held`, and reads the queue, in
/// one step.
///
/// It is idempotent. If the claim was withdrawn, or the realm is another, it writes nothing.
pub(crate) fn acquire(entry: &QueueEntry, mark: &RealmMark, if_held: IfHeld, tombstone: &[u8]) -> Txn {
    let not_withdrawn = || Compare::create_revision(tombstone, CompareOp::Equal, 0);
    let is_empty = Compare::create_revision(entry.range.clone(), CompareOp::Equal, 0).with_prefix();
    let own = || TxnOp::get(entry.key.clone(), None);
    let mut otherwise = vec![mark.read_op()];
    match if_held {
        IfHeld::DoNothing => {}
        IfHeld::Read => otherwise.extend([own(), read_head(entry)]),
        IfHeld::Enqueue => {
            let absent = Compare::create_revision(entry.key.clone(), CompareOp::Equal, 0);
            let last = read_range(entry, by_create_revision(SortOrder::Descend).with_limit(2));
            let queue = read_range(entry, by_create_revision(SortOrder::Ascend).with_limit(MAX_COUNTED_AHEAD));
            let enqueue = Txn::new()
                .when([mark.is_unchanged(), absent, not_withdrawn()])
                .and_then([put(entry, &entry.value_if_queued), read_head(entry), last])
                .or_else([own(), queue]);
            otherwise.push(TxnOp::txn(enqueue));
        }
    }
    Txn::new()
        .when([mark.is_unchanged(), is_empty, not_withdrawn()])
        .and_then([put(entry, &entry.value_if_free)])
        .or_else(otherwise)
}

/// Reads the queue around an entry whose create revision is known; it writes nothing.
pub(crate) fn read_queue(entry: &QueueEntry, mark: &RealmMark) -> Txn {
    let older = |order| by_create_revision(order).with_max_create_revision(entry.create_revision - 1);
    let predecessor = older(SortOrder::Descend).with_limit(1);
    let ahead = older(SortOrder::Ascend).with_keys_only().with_limit(MAX_COUNTED_AHEAD);
    let own = TxnOp::get(entry.key.clone(), None);
    Txn::new().and_then([
        mark.read_op(),
        own,
        read_head(entry),
        read_range(entry, predecessor),
        read_range(entry, ahead),
    ])
}

/// Creates the entry behind `predecessor`, an entry of this process in a queue that is known to be
/// long.
///
/// Etcd reads the whole queue for every other request, and many at once would delay all else. It is
/// idempotent. If the claim was withdrawn, or the realm is another, it writes nothing.
pub(crate) fn enqueue_behind(entry: &QueueEntry, mark: &RealmMark, predecessor: &[u8], tombstone: &[u8]) -> Txn {
    let absent = |key: &[u8]| Compare::create_revision(key, CompareOp::Equal, 0);
    let count = read_range(entry, GetOptions::new().with_prefix().with_count_only());
    Txn::new()
        .when([mark.is_unchanged(), absent(&entry.key), absent(tombstone)])
        .and_then([put(entry, &entry.value_if_queued), TxnOp::get(predecessor, None), count])
        .or_else([mark.read_op()])
}

/// Reads an entry and its predecessor: two keys, however long the queue is.
pub(crate) fn read_neighbours(entry: &QueueEntry, mark: &RealmMark, predecessor: &[u8]) -> Txn {
    Txn::new().and_then([mark.read_op(), TxnOp::get(entry.key.clone(), None), TxnOp::get(predecessor, None)])
}

/// Deletes the claim's own entry, and no other claim's. If `hands_over`, it then reads the new head
/// of the queue. With `tombstone`, it creates this key, so that a request that arrives later writes
/// nothing.
pub(crate) fn release(entry: &QueueEntry, tombstone: Option<&[u8]>, hands_over: bool) -> Txn {
    let bury = || tombstone.map(|tombstone| put_key(tombstone, b"", entry.lease_id));
    let delete = |own: Vec<Compare>, otherwise: Vec<TxnOp>| {
        // The entry was the head, and so held the lock, if it has a token. It was not if it was far
        // back. Otherwise the head is read.
        let is_unknown = entry.token.is_none() && !entry.is_far_back();
        let mut delete: Vec<_> = is_unknown.then(|| read_head(entry)).into_iter().collect();
        delete.push(TxnOp::delete(entry.key.clone(), None));
        let hands_over = hands_over && !entry.is_far_back();
        delete.extend(hands_over.then(|| read_head(entry)));
        delete.extend(bury());
        Txn::new().when(own).and_then(delete).or_else(otherwise)
    };
    let if_absent = || bury().into_iter().collect();
    if entry.create_revision != 0 {
        // An entry is written once: a later change has made it another's.
        let unchanged = Compare::mod_revision(entry.key.clone(), CompareOp::Equal, entry.create_revision);
        return delete(vec![unchanged], if_absent());
    }
    // A reply was lost: the claim's own entry is recognised by its value.
    let has_value = |value: &[u8]| {
        let on_lease = Compare::lease(entry.key.clone(), CompareOp::Equal, entry.lease_id);
        vec![on_lease, Compare::value(entry.key.clone(), CompareOp::Equal, value)]
    };
    let if_queued = TxnOp::txn(delete(has_value(&entry.value_if_queued), if_absent()));
    delete(has_value(&entry.value_if_free), vec![if_queued])
}

fn put(entry: &QueueEntry, value: &[u8]) -> TxnOp {
    put_key(&entry.key, value, entry.lease_id)
}

fn put_key(key: &[u8], value: &[u8], lease_id: i64) -> TxnOp {
    TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease_id)))
}

fn read_range(entry: &QueueEntry, options: GetOptions) -> TxnOp {
    TxnOp::get(entry.range.clone(), Some(options))
}

fn read_head(entry: &QueueEntry) -> TxnOp {
    read_range(entry, by_create_revision(SortOrder::Ascend).with_limit(1))
}

fn by_create_revision(order: SortOrder) -> GetOptions {
    GetOptions::new().with_prefix().with_sort(SortTarget::Create, order)
}
