//! The transactions of the recipe, and what they say: [`Seen`].

use etcd_client::{Compare, CompareOp, GetOptions, GetResponse, KeyValue, SortOrder, SortTarget, Txn, TxnOp};
use etcd_client::{PutOptions, TxnOpResponse, TxnResponse};
use lock_core::Result;

use crate::error::protocol;
use crate::place::Place;
use crate::realm::Data;

/// A key of a lock, as a transaction saw it.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) key: Vec<u8>,
    pub(crate) created: i64,
    pub(crate) modified: i64,
    pub(crate) lease: i64,
    pub(crate) value: Vec<u8>,
}

/// What one linearizable transaction saw of a lock.
#[derive(Debug)]
pub(crate) struct Seen {
    /// At which revision.
    pub(crate) revision: i64,
    /// The claim's own key.
    pub(crate) own: Option<Key>,
    /// The first in line: who has the lowest create revision holds the lock.
    pub(crate) head: Option<Key>,
    /// The next older key than the own.
    pub(crate) before: Option<Key>,
    /// How many are ahead, where it is known.
    pub(crate) ahead: Option<u32>,
}

/// What is done where somebody is in line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Otherwise {
    /// Nothing: who asks looks for itself.
    Nothing,
    /// A look at who holds it.
    Look,
    /// A place in the line is taken.
    Join,
}

/// Takes the lock if nobody is in line, and does something else `otherwise`; and says what it sees, all in one step. Made
/// twice, it does nothing the second time. After the claim was withdrawn, or where the data are others, it does nothing at
/// all.
pub(crate) fn enter(place: &Place, data: &Data, otherwise: Otherwise, withdrawn: &[u8]) -> Txn {
    let not_withdrawn = || Compare::create_revision(withdrawn, CompareOp::Equal, 0);
    let nobody = Compare::create_revision(place.range.clone(), CompareOp::Equal, 0).with_prefix();
    let put = |value: &[u8]| TxnOp::put(place.key.clone(), value, Some(PutOptions::new().with_lease(place.lease)));
    let own = || TxnOp::get(place.key.clone(), None);
    let mut told = vec![data.read()];
    match otherwise {
        Otherwise::Nothing => {}
        Otherwise::Look => told.extend([own(), head(place)]),
        Otherwise::Join => {
            let absent = Compare::create_revision(place.key.clone(), CompareOp::Equal, 0);
            let last = TxnOp::get(place.range.clone(), Some(by_creation(SortOrder::Descend).with_limit(2)));
            let line = TxnOp::get(place.range.clone(), Some(by_creation(SortOrder::Ascend).with_limit(COUNTED)));
            let join = Txn::new()
                .when([data.is_the_same(), absent, not_withdrawn()])
                .and_then([put(&place.queued), head(place), last])
                .or_else([own(), line]);
            told.push(TxnOp::txn(join));
        }
    }
    Txn::new().when([data.is_the_same(), nobody, not_withdrawn()]).and_then([put(&place.free)]).or_else(told)
}

/// How many are counted who are ahead of a waiter that looks again.
const COUNTED: i64 = 100;

/// Looks where a claim stands whose key is known; it writes nothing.
pub(crate) fn look(place: &Place, data: &Data) -> Txn {
    let older = |order| by_creation(order).with_max_create_revision(place.created - 1);
    let before = older(SortOrder::Descend).with_limit(1);
    let counted = older(SortOrder::Ascend).with_keys_only().with_limit(COUNTED);
    let range = |options| TxnOp::get(place.range.clone(), Some(options));
    let own = TxnOp::get(place.key.clone(), None);
    Txn::new().and_then([data.read(), own, head(place), range(before), range(counted)])
}

/// Takes a place in a line that is known to be long, behind one of this process; `before` is its key. Etcd reads the whole
/// line for every other way to ask, and a crowd that asks so keeps it from all else. Made twice, or after the claim was
/// withdrawn, or where the data are others, it does nothing.
pub(crate) fn follow(place: &Place, data: &Data, before: &[u8], withdrawn: &[u8]) -> Txn {
    let absent = |key: &[u8]| Compare::create_revision(key, CompareOp::Equal, 0);
    let put = TxnOp::put(place.key.clone(), &place.queued[..], Some(PutOptions::new().with_lease(place.lease)));
    let count = TxnOp::get(place.range.clone(), Some(GetOptions::new().with_prefix().with_count_only()));
    Txn::new()
        .when([data.is_the_same(), absent(&place.key), absent(withdrawn)])
        .and_then([put, TxnOp::get(before, None), count])
        .or_else([data.read()])
}

/// What a [`follow`] saw; `None` if it did nothing. The one before is missing if it is gone.
pub(crate) fn followed(place: &Place, created: i64, response: &TxnResponse) -> Option<Seen> {
    let revision = response.header()?.revision();
    let ops = response.op_responses();
    let [TxnOpResponse::Put(_), TxnOpResponse::Get(before), TxnOpResponse::Get(line)] = &ops[..] else { return None };
    let before = first(before).filter(|before| before.created == created);
    let (key, value) = (place.key.clone(), place.queued.clone());
    let own = Some(Key { key, created: revision, modified: revision, lease: place.lease, value });
    Some(Seen { revision, own, head: None, before, ahead: u32::try_from(line.count() - 1).ok() })
}

/// Looks whether a claim and the one before it stand as they did: two keys, however long the line is.
pub(crate) fn glance(place: &Place, data: &Data, before: &[u8]) -> Txn {
    Txn::new().and_then([data.read(), TxnOp::get(place.key.clone(), None), TxnOp::get(before, None)])
}

/// What a [`glance`] saw, if all stands as it did; `created` is the create revision of the one before.
pub(crate) fn unchanged(place: &Place, created: i64, response: &TxnResponse) -> Option<Seen> {
    let revision = response.header()?.revision();
    let [_, TxnOpResponse::Get(own), TxnOpResponse::Get(before)] = &response.op_responses()[..] else { return None };
    let own = first(own).filter(|own| place.is_at(own))?;
    let before = first(before).filter(|before| before.created == created)?;
    Some(Seen { revision, own: Some(own), head: None, before: Some(before), ahead: None })
}

/// Deletes the claim's own key, and nobody else's, and if `hands_over` reads who is first in line then; `mark` is left for a
/// request that comes late.
pub(crate) fn leave(place: &Place, mark: Option<&[u8]>, hands_over: bool) -> Txn {
    let mark = || mark.map(|mark| TxnOp::put(mark, "", Some(PutOptions::new().with_lease(place.lease))));
    let delete = |own: Vec<Compare>, otherwise: Vec<TxnOp>| {
        // Whether it was the first in line, and so held the lock, is known from a grant, or from how far it was from there;
        // otherwise it is read.
        let unknown = place.token.is_none() && !place.is_far();
        let mut delete: Vec<_> = unknown.then(|| head(place)).into_iter().collect();
        delete.push(TxnOp::delete(place.key.clone(), None));
        let hands_over = hands_over && !place.is_far();
        delete.extend(hands_over.then(|| head(place)));
        delete.extend(mark());
        Txn::new().when(own).and_then(delete).or_else(otherwise)
    };
    let nothing = || mark().into_iter().collect();
    if place.created != 0 {
        // It is written once: whoever has changed it since has made it another's.
        let unchanged = Compare::mod_revision(place.key.clone(), CompareOp::Equal, place.created);
        return delete(vec![unchanged], nothing());
    }
    // An answer was lost: what is its own is told by what it says.
    let on_lease = || Compare::lease(place.key.clone(), CompareOp::Equal, place.lease);
    let says = |value: &[u8]| vec![on_lease(), Compare::value(place.key.clone(), CompareOp::Equal, value)];
    delete(says(&place.free), vec![TxnOp::txn(delete(says(&place.queued), nothing()))])
}

/// What a [`leave`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// The claim's key, first in line.
    Holding,
    /// The claim's key, behind others.
    Waiting,
    /// No key of the claim's.
    Nothing,
}

/// What a [`leave`] found.
pub(crate) fn left(place: &Place, response: &TxnResponse) -> Left {
    let ops = response.op_responses();
    match (response.succeeded(), place.token, ops.first()) {
        (true, Some(_), _) => Left::Holding,
        (true, None, Some(TxnOpResponse::Get(get))) if get.kvs().first().is_some_and(|kv| kv.key() == place.key) => {
            Left::Holding
        }
        (true, None, _) => Left::Waiting,
        (false, _, Some(TxnOpResponse::Txn(inner))) => left(place, inner),
        (false, _, _) => Left::Nothing,
    }
}

/// Who was first in line after a [`leave`] had deleted the claim's key; `None` if it found nothing, or did not read that.
pub(crate) fn handed_over(response: &TxnResponse) -> Option<Option<Key>> {
    let mut ops = response.op_responses();
    if let [TxnOpResponse::Txn(inner)] = &ops[..] {
        ops = inner.op_responses();
    }
    let after = ops.iter().skip_while(|op| !matches!(op, TxnOpResponse::Delete(_))).nth(1)?;
    match after {
        TxnOpResponse::Get(head) => Some(first(head)),
        _ => None,
    }
}

fn head(place: &Place) -> TxnOp {
    TxnOp::get(place.range.clone(), Some(by_creation(SortOrder::Ascend).with_limit(1)))
}

fn by_creation(order: SortOrder) -> GetOptions {
    GetOptions::new().with_prefix().with_sort(SortTarget::Create, order)
}

/// Reads the answer to [`enter`] or [`look`].
pub(crate) fn read(place: &Place, response: &TxnResponse) -> Result<Seen> {
    let revision = response.header().map(|header| header.revision()).ok_or_else(|| protocol(NO_HEADER))?;
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
        let (key, value) = (place.key.clone(), value.clone());
        Some(Key { key, created: revision, modified: revision, lease: place.lease, value })
    };
    match &ops[..] {
        // It was not free, and nothing else was asked.
        [] => Ok(Seen { revision, own: None, head: None, before: None, ahead: None }),
        // Granted at once: there is nobody else.
        [TxnOpResponse::Put(_)] => {
            let own = written(&place.free);
            Ok(Seen { revision, head: own.clone(), own, before: None, ahead: None })
        }
        [TxnOpResponse::Put(_), TxnOpResponse::Get(head), TxnOpResponse::Get(last)] if joined => {
            let before = last.kvs().iter().find(|kv| kv.key() != place.key).map(Key::of);
            let ahead = u32::try_from(last.count() - 1).ok();
            Ok(Seen { revision, own: written(&place.queued), head: first(head), before, ahead })
        }
        [TxnOpResponse::Get(own), TxnOpResponse::Get(head), TxnOpResponse::Get(before), TxnOpResponse::Get(older)] => {
            let ahead = (!older.more()).then(|| u32::try_from(older.kvs().len()).unwrap_or(u32::MAX));
            Ok(Seen { revision, own: first(own), head: first(head), before: first(before), ahead })
        }
        [TxnOpResponse::Get(own), TxnOpResponse::Get(line)] => {
            let own = first(own);
            let is_older = |kv: &&KeyValue| own.as_ref().is_none_or(|own| kv.create_revision() < own.created);
            let older = line.kvs().iter().filter(is_older);
            let before = older.clone().next_back().map(Key::of);
            let ahead = (!line.more()).then(|| u32::try_from(older.count()).unwrap_or(u32::MAX));
            let ahead = ahead.filter(|_| own.is_some());
            Ok(Seen { revision, head: first(line).or_else(|| own.clone()), own, before, ahead })
        }
        _ => Err(protocol("a transaction of etcd has other answers than questions")),
    }
}

/// What each reading of a transaction found.
pub(crate) fn firsts(response: &TxnResponse) -> Vec<Option<Key>> {
    let ops = response.op_responses();
    ops.iter().map(|op| if let TxnOpResponse::Get(get) = op { first(get) } else { None }).collect()
}

/// What a release of this process saw for a claim that it found first in line at `revision`.
pub(crate) fn first_in_line(place: &Place, revision: i64) -> Seen {
    let (key, value) = (place.key.clone(), place.queued.clone());
    let own = Some(Key { key, created: place.created, modified: place.created, lease: place.lease, value });
    Seen { revision, head: own.clone(), own, before: None, ahead: None }
}

fn first(get: &GetResponse) -> Option<Key> {
    get.kvs().first().map(Key::of)
}

const NO_HEADER: &str = "an answer of etcd has no header";

impl Key {
    pub(crate) fn of(kv: &KeyValue) -> Key {
        Key {
            key: kv.key().to_vec(),
            created: kv.create_revision(),
            modified: kv.mod_revision(),
            lease: kv.lease(),
            value: kv.value().to_vec(),
        }
    }
}
