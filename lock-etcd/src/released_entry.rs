//! [`ReleasedEntry`]: the outcome of a release transaction.

use etcd_client::{TxnOpResponse, TxnResponse};

use crate::lock_key::LockKey;
use crate::queue_entry::QueueEntry;

/// The entry that a [release](crate::transactions::release) has deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReleasedEntry {
    /// The claim's entry, at the head of the queue.
    Held,
    /// The claim's entry, behind others.
    Waiting,
    /// The claim had no entry.
    Absent,
}

impl ReleasedEntry {
    pub(crate) fn parse(entry: &QueueEntry, response: &TxnResponse) -> ReleasedEntry {
        let ops = response.op_responses();
        match (response.succeeded(), entry.token, ops.first()) {
            (true, Some(_), _) => ReleasedEntry::Held,
            (true, None, Some(TxnOpResponse::Get(head)))
                if head.kvs().first().is_some_and(|kv| kv.key() == entry.key) =>
            {
                ReleasedEntry::Held
            }
            (true, None, _) => ReleasedEntry::Waiting,
            (false, _, Some(TxnOpResponse::Txn(inner))) => ReleasedEntry::parse(entry, inner),
            (false, _, _) => ReleasedEntry::Absent,
        }
    }
}

/// The head of the queue after the release; `None` if it deleted nothing, or did not read the head.
pub(crate) fn parse_next_head(response: &TxnResponse) -> Option<Option<LockKey>> {
    let mut ops = response.op_responses();
    if let [TxnOpResponse::Txn(inner)] = &ops[..] {
        ops = inner.op_responses();
    }
    let after_delete = ops.iter().skip_while(|op| !matches!(op, TxnOpResponse::Delete(_))).nth(1)?;
    match after_delete {
        TxnOpResponse::Get(head) => Some(LockKey::first(head)),
        _ => None,
    }
}
