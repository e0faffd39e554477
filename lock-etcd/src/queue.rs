//! The transactions of the recipe, and what they say: [`Seen`].

use etcd_client::{Compare, CompareOp, GetOptions, GetResponse, KeyValue, SortOrder, SortTarget, Txn, TxnOp};
use etcd_client::{PutOptions, TxnOpResponse, TxnResponse};
use lock_core::Result;

use crate::error::protocol;
use crate::place::Place;

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

/// Takes the lock if nobody is in line; else, for a claim that queues, takes a place in the line; and says what it sees,
/// all in one step. Made twice, it does nothing the second time. After the claim was withdrawn it does nothing at all.
pub(crate) fn enter(place: &Place, queues: bool, withdrawn: &[u8]) -> Txn {
    let not_withdrawn = || Compare::create_revision(withdrawn, CompareOp::Equal, 0);
    let nobody = Compare::create_revision(place.range.clone(), CompareOp::Equal, 0).with_prefix();
    let put = |value: &[u8]| TxnOp::put(place.key.clone(), value, Some(PutOptions::new().with_lease(place.lease)));
    let own = || TxnOp::get(place.key.clone(), None);
    let known = |all: GetOptions| vec![own(), head(place), TxnOp::get(place.range.clone(), Some(all))];
    let last = by_creation(SortOrder::Descend);
    let otherwise = match queues {
        false => known(by_creation(SortOrder::Ascend).with_limit(1)),
        true => {
            let absent = Compare::create_revision(place.key.clone(), CompareOp::Equal, 0);
            let join = Txn::new()
                .when([absent, not_withdrawn()])
                .and_then(vec![
                    put(&place.queued),
                    own(),
                    head(place),
                    TxnOp::get(place.range.clone(), Some(last.clone().with_limit(2))),
                ])
                .or_else(known(last));
            vec![TxnOp::txn(join)]
        }
    };
    Txn::new().when([nobody, not_withdrawn()]).and_then([put(&place.free)]).or_else(otherwise)
}

/// How many are counted who are ahead of a waiter that looks again.
const COUNTED: i64 = 1_000;

/// Looks where a claim stands whose key is known; it writes nothing.
pub(crate) fn look(place: &Place) -> Txn {
    let older = GetOptions::with_keys_only(by_creation(SortOrder::Descend)).with_limit(COUNTED);
    let older = older.with_max_create_revision(place.created - 1);
    Txn::new().and_then([
        TxnOp::get(place.key.clone(), None),
        head(place),
        TxnOp::get(place.range.clone(), Some(older)),
    ])
}

/// Deletes the claim's own key, and nobody else's; `mark` is left for a request that comes late.
pub(crate) fn leave(place: &Place, mark: Option<&[u8]>) -> Txn {
    let mark = || mark.map(|mark| TxnOp::put(mark, "", Some(PutOptions::new().with_lease(place.lease))));
    let delete = |own: Compare, otherwise: Vec<TxnOp>| {
        let on_lease = Compare::lease(place.key.clone(), CompareOp::Equal, place.lease);
        // Whether it was the first in line, and so held the lock, is known from a grant; otherwise it is read.
        let mut delete: Vec<_> = place.token.is_none().then(|| head(place)).into_iter().collect();
        delete.push(TxnOp::delete(place.key.clone(), None));
        delete.extend(mark());
        Txn::new().when([on_lease, own]).and_then(delete).or_else(otherwise)
    };
    let nothing = || mark().into_iter().collect();
    if place.created != 0 {
        return delete(Compare::create_revision(place.key.clone(), CompareOp::Equal, place.created), nothing());
    }
    // An answer was lost: what is its own is told by what it says.
    let says = |value: &[u8]| Compare::value(place.key.clone(), CompareOp::Equal, value);
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
    let mut joined = false;
    if let [TxnOpResponse::Txn(inner)] = &ops[..] {
        joined = inner.succeeded();
        ops = inner.op_responses();
    }
    let gets: Vec<&GetResponse> = ops
        .iter()
        .filter_map(|op| match op {
            TxnOpResponse::Get(get) => Some(get),
            _ => None,
        })
        .collect();
    let first = |get: &GetResponse| get.kvs().first().map(Key::of);
    match gets[..] {
        // Granted at once: there is nobody else.
        [] => {
            let (key, value) = (place.key.clone(), place.free.clone());
            let own = Some(Key { key, created: revision, modified: revision, lease: place.lease, value });
            Ok(Seen { revision, head: own.clone(), own, before: None, ahead: None })
        }
        [own, head, others] => {
            let (own, head) = (first(own), first(head));
            let older = |kv: &&KeyValue| {
                kv.key() != place.key && own.as_ref().is_none_or(|own| kv.create_revision() < own.created)
            };
            let before = others.kvs().iter().find(older).map(Key::of);
            // The server's own count knows no limit by create revision.
            let ahead = match (&own, joined) {
                (None, _) => None,
                (Some(_), true) => Some(others.count() - 1),
                (Some(_), false) => (!others.more()).then(|| others.kvs().iter().filter(older).count() as i64),
            };
            let ahead = ahead.map(|ahead| u32::try_from(ahead).unwrap_or(u32::MAX));
            Ok(Seen { revision, own, head, before, ahead })
        }
        _ => Err(protocol("a transaction of etcd has another number of answers than of questions")),
    }
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
