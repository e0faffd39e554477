//! The transactions of the recipe, and what they say: [`Seen`].

use etcd_client::{Compare, CompareOp, GetOptions, GetResponse, KeyValue, SortOrder, SortTarget, Txn, TxnOp};
use etcd_client::{PutOptions, TxnOpResponse, TxnResponse};
use lock_core::Result;

use crate::error::unexpected_reply;
use crate::queue_entry::QueueEntry;
use crate::realm_mark::RealmMark;

/// A key of a lock, as a transaction saw it.
#[derive(Clone, Debug)]
pub(crate) struct LockKey {
    pub(crate) key: Vec<u8>,
    pub(crate) create_revision: i64,
    pub(crate) mod_revision: i64,
    pub(crate) lease_id: i64,
    pub(crate) value: Vec<u8>,
}

/// What one linearizable transaction saw of a lock.
#[derive(Debug)]
pub(crate) struct QueueView {
    /// At which revision.
    pub(crate) revision: i64,
    /// The claim's own key.
    pub(crate) own: Option<LockKey>,
    /// The first in line: who has the lowest create revision holds the lock.
    pub(crate) head: Option<LockKey>,
    /// The next older key than the own.
    pub(crate) predecessor: Option<LockKey>,
    /// How many are ahead, where it is known.
    pub(crate) ahead: Option<u32>,
}

/// What is done where somebody is in line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfHeld {
    /// Nothing: who asks looks for itself.
    Nothing,
    /// A look at who holds it.
    Read,
    /// A place in the line is taken.
    Enqueue,
}

/// Takes the lock if nobody is in line, and does something else `otherwise`; and says what it sees, all in one step. Made
/// twice, it does nothing the second time. After the claim was withdrawn, or where the data are others, it does nothing at
/// all.
pub(crate) fn acquire(entry: &QueueEntry, data: &RealmMark, otherwise: IfHeld, withdrawn: &[u8]) -> Txn {
    let not_withdrawn = || Compare::create_revision(withdrawn, CompareOp::Equal, 0);
    let nobody = Compare::create_revision(entry.range.clone(), CompareOp::Equal, 0).with_prefix();
    let put = |value: &[u8]| TxnOp::put(entry.key.clone(), value, Some(PutOptions::new().with_lease(entry.lease_id)));
    let own = || TxnOp::get(entry.key.clone(), None);
    let mut told = vec![data.read_op()];
    match otherwise {
        IfHeld::Nothing => {}
        IfHeld::Read => told.extend([own(), read_head(entry)]),
        IfHeld::Enqueue => {
            let absent = Compare::create_revision(entry.key.clone(), CompareOp::Equal, 0);
            let last = TxnOp::get(entry.range.clone(), Some(by_create_revision(SortOrder::Descend).with_limit(2)));
            let line = TxnOp::get(
                entry.range.clone(),
                Some(by_create_revision(SortOrder::Ascend).with_limit(MAX_COUNTED_AHEAD)),
            );
            let join = Txn::new()
                .when([data.is_unchanged(), absent, not_withdrawn()])
                .and_then([put(&entry.value_if_queued), read_head(entry), last])
                .or_else([own(), line]);
            told.push(TxnOp::txn(join));
        }
    }
    Txn::new().when([data.is_unchanged(), nobody, not_withdrawn()]).and_then([put(&entry.value_if_free)]).or_else(told)
}

/// How many are counted who are ahead of a waiter that looks again.
const MAX_COUNTED_AHEAD: i64 = 100;

/// Looks where a claim stands whose key is known; it writes nothing.
pub(crate) fn read_queue(entry: &QueueEntry, data: &RealmMark) -> Txn {
    let older = |order| by_create_revision(order).with_max_create_revision(entry.create_revision - 1);
    let before = older(SortOrder::Descend).with_limit(1);
    let counted = older(SortOrder::Ascend).with_keys_only().with_limit(MAX_COUNTED_AHEAD);
    let range = |options| TxnOp::get(entry.range.clone(), Some(options));
    let own = TxnOp::get(entry.key.clone(), None);
    Txn::new().and_then([data.read_op(), own, read_head(entry), range(before), range(counted)])
}

/// Takes a place in a line that is known to be long, behind one of this process; `before` is its key. Etcd reads the whole
/// line for every other way to ask, and a crowd that asks so keeps it from all else. Made twice, or after the claim was
/// withdrawn, or where the data are others, it does nothing.
pub(crate) fn enqueue_behind(entry: &QueueEntry, data: &RealmMark, before: &[u8], withdrawn: &[u8]) -> Txn {
    let absent = |key: &[u8]| Compare::create_revision(key, CompareOp::Equal, 0);
    let put =
        TxnOp::put(entry.key.clone(), &entry.value_if_queued[..], Some(PutOptions::new().with_lease(entry.lease_id)));
    let count = TxnOp::get(entry.range.clone(), Some(GetOptions::new().with_prefix().with_count_only()));
    Txn::new()
        .when([data.is_unchanged(), absent(&entry.key), absent(withdrawn)])
        .and_then([put, TxnOp::get(before, None), count])
        .or_else([data.read_op()])
}

/// What a [`follow`] saw; `None` if it did nothing. The one before is missing if it is gone.
pub(crate) fn parse_enqueued(entry: &QueueEntry, created: i64, response: &TxnResponse) -> Option<QueueView> {
    let revision = response.header()?.revision();
    let ops = response.op_responses();
    let [TxnOpResponse::Put(_), TxnOpResponse::Get(before), TxnOpResponse::Get(line)] = &ops[..] else { return None };
    let before = first_key(before).filter(|before| before.create_revision == created);
    let (key, value) = (entry.key.clone(), entry.value_if_queued.clone());
    let own = Some(LockKey { key, create_revision: revision, mod_revision: revision, lease_id: entry.lease_id, value });
    Some(QueueView { revision, own, head: None, predecessor: before, ahead: u32::try_from(line.count() - 1).ok() })
}

/// Looks whether a claim and the one before it stand as they did: two keys, however long the line is.
pub(crate) fn read_neighbours(entry: &QueueEntry, data: &RealmMark, before: &[u8]) -> Txn {
    Txn::new().and_then([data.read_op(), TxnOp::get(entry.key.clone(), None), TxnOp::get(before, None)])
}

/// What a [`glance`] saw, if all stands as it did; `created` is the create revision of the one before.
pub(crate) fn parse_unchanged(entry: &QueueEntry, created: i64, response: &TxnResponse) -> Option<QueueView> {
    let revision = response.header()?.revision();
    let [_, TxnOpResponse::Get(own), TxnOpResponse::Get(before)] = &response.op_responses()[..] else { return None };
    let own = first_key(own).filter(|own| entry.is_current(own))?;
    let before = first_key(before).filter(|before| before.create_revision == created)?;
    Some(QueueView { revision, own: Some(own), head: None, predecessor: Some(before), ahead: None })
}

/// Deletes the claim's own key, and nobody else's, and if `hands_over` reads who is first in line then; `mark` is left for a
/// request that comes late.
pub(crate) fn release(entry: &QueueEntry, mark: Option<&[u8]>, hands_over: bool) -> Txn {
    let mark = || mark.map(|mark| TxnOp::put(mark, "", Some(PutOptions::new().with_lease(entry.lease_id))));
    let delete = |own: Vec<Compare>, otherwise: Vec<TxnOp>| {
        // Whether it was the first in line, and so held the lock, is known from a grant, or from how far it was from there;
        // otherwise it is read.
        let unknown = entry.token.is_none() && !entry.is_far_back();
        let mut delete: Vec<_> = unknown.then(|| read_head(entry)).into_iter().collect();
        delete.push(TxnOp::delete(entry.key.clone(), None));
        let hands_over = hands_over && !entry.is_far_back();
        delete.extend(hands_over.then(|| read_head(entry)));
        delete.extend(mark());
        Txn::new().when(own).and_then(delete).or_else(otherwise)
    };
    let nothing = || mark().into_iter().collect();
    if entry.create_revision != 0 {
        // It is written once: whoever has changed it since has made it another's.
        let unchanged = Compare::mod_revision(entry.key.clone(), CompareOp::Equal, entry.create_revision);
        return delete(vec![unchanged], nothing());
    }
    // An answer was lost: what is its own is told by what it says.
    let on_lease = || Compare::lease(entry.key.clone(), CompareOp::Equal, entry.lease_id);
    let says = |value: &[u8]| vec![on_lease(), Compare::value(entry.key.clone(), CompareOp::Equal, value)];
    delete(says(&entry.value_if_free), vec![TxnOp::txn(delete(says(&entry.value_if_queued), nothing()))])
}

/// What a [`leave`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReleasedEntry {
    /// The claim's key, first in line.
    Held,
    /// The claim's key, behind others.
    Waiting,
    /// No key of the claim's.
    Absent,
}

/// What a [`leave`] found.
pub(crate) fn parse_released(entry: &QueueEntry, response: &TxnResponse) -> ReleasedEntry {
    let ops = response.op_responses();
    match (response.succeeded(), entry.token, ops.first()) {
        (true, Some(_), _) => ReleasedEntry::Held,
        (true, None, Some(TxnOpResponse::Get(get))) if get.kvs().first().is_some_and(|kv| kv.key() == entry.key) => {
            ReleasedEntry::Held
        }
        (true, None, _) => ReleasedEntry::Waiting,
        (false, _, Some(TxnOpResponse::Txn(inner))) => parse_released(entry, inner),
        (false, _, _) => ReleasedEntry::Absent,
    }
}

/// Who was first in line after a [`leave`] had deleted the claim's key; `None` if it found nothing, or did not read that.
pub(crate) fn parse_next_head(response: &TxnResponse) -> Option<Option<LockKey>> {
    let mut ops = response.op_responses();
    if let [TxnOpResponse::Txn(inner)] = &ops[..] {
        ops = inner.op_responses();
    }
    let after = ops.iter().skip_while(|op| !matches!(op, TxnOpResponse::Delete(_))).nth(1)?;
    match after {
        TxnOpResponse::Get(head) => Some(first_key(head)),
        _ => None,
    }
}

fn read_head(entry: &QueueEntry) -> TxnOp {
    TxnOp::get(entry.range.clone(), Some(by_create_revision(SortOrder::Ascend).with_limit(1)))
}

fn by_create_revision(order: SortOrder) -> GetOptions {
    GetOptions::new().with_prefix().with_sort(SortTarget::Create, order)
}

/// Reads the answer to [`enter`] or [`look`].
pub(crate) fn parse_view(entry: &QueueEntry, response: &TxnResponse) -> Result<QueueView> {
    let revision = response.header().map(|header| header.revision()).ok_or_else(|| unexpected_reply(NO_HEADER))?;
    let mut ops = response.op_responses();
    if matches!(ops.first(), Some(TxnOpResponse::Get(_))) {
        // Whose data they are.
        ops.remove(0);
    }
    let mut joined = false;
    if let [TxnOpResponse::Txn(inner)] = &ops[..] {
        joined = inner.succeeded();
        ops = inner.op_responses();
    }
    let written = |value: &Vec<u8>| {
        let (key, value) = (entry.key.clone(), value.clone());
        Some(LockKey { key, create_revision: revision, mod_revision: revision, lease_id: entry.lease_id, value })
    };
    match &ops[..] {
        // It was not free, and nothing else was asked.
        [] => Ok(QueueView { revision, own: None, head: None, predecessor: None, ahead: None }),
        // Granted at once: there is nobody else.
        [TxnOpResponse::Put(_)] => {
            let own = written(&entry.value_if_free);
            Ok(QueueView { revision, head: own.clone(), own, predecessor: None, ahead: None })
        }
        [TxnOpResponse::Put(_), TxnOpResponse::Get(head), TxnOpResponse::Get(last)] if joined => {
            let before = last.kvs().iter().find(|kv| kv.key() != entry.key).map(LockKey::of);
            let ahead = u32::try_from(last.count() - 1).ok();
            Ok(QueueView {
                revision,
                own: written(&entry.value_if_queued),
                head: first_key(head),
                predecessor: before,
                ahead,
            })
        }
        [TxnOpResponse::Get(own), TxnOpResponse::Get(head), TxnOpResponse::Get(before), TxnOpResponse::Get(older)] => {
            let ahead = (!older.more()).then(|| u32::try_from(older.kvs().len()).unwrap_or(u32::MAX));
            Ok(QueueView {
                revision,
                own: first_key(own),
                head: first_key(head),
                predecessor: first_key(before),
                ahead,
            })
        }
        [TxnOpResponse::Get(own), TxnOpResponse::Get(line)] => {
            let own = first_key(own);
            let is_older = |kv: &&KeyValue| own.as_ref().is_none_or(|own| kv.create_revision() < own.create_revision);
            let older = line.kvs().iter().filter(is_older);
            let before = older.clone().next_back().map(LockKey::of);
            let ahead = (!line.more()).then(|| u32::try_from(older.count()).unwrap_or(u32::MAX));
            let ahead = ahead.filter(|_| own.is_some());
            Ok(QueueView { revision, head: first_key(line).or_else(|| own.clone()), own, predecessor: before, ahead })
        }
        _ => Err(unexpected_reply("a transaction of etcd has other answers than questions")),
    }
}

/// What each reading of a transaction found.
pub(crate) fn parse_keys(response: &TxnResponse) -> Vec<Option<LockKey>> {
    let ops = response.op_responses();
    ops.iter().map(|op| if let TxnOpResponse::Get(get) = op { first_key(get) } else { None }).collect()
}

/// What a release of this process saw for a claim that it found first in line at `revision`.
pub(crate) fn view_of_head(entry: &QueueEntry, revision: i64) -> QueueView {
    let (key, value) = (entry.key.clone(), entry.value_if_queued.clone());
    let own = Some(LockKey {
        key,
        create_revision: entry.create_revision,
        mod_revision: entry.create_revision,
        lease_id: entry.lease_id,
        value,
    });
    QueueView { revision, head: own.clone(), own, predecessor: None, ahead: None }
}

fn first_key(get: &GetResponse) -> Option<LockKey> {
    get.kvs().first().map(LockKey::of)
}

const NO_HEADER: &str = "an answer of etcd has no header";

impl LockKey {
    pub(crate) fn of(kv: &KeyValue) -> LockKey {
        LockKey {
            key: kv.key().to_vec(),
            create_revision: kv.create_revision(),
            mod_revision: kv.mod_revision(),
            lease_id: kv.lease(),
            value: kv.value().to_vec(),
        }
    }
}
