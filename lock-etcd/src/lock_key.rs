//! [`LockKey`]: a key of a lock, as a transaction read it.

use etcd_client::{GetResponse, KeyValue, TxnOpResponse, TxnResponse};

/// A key of a lock, as a transaction read it.
#[derive(Clone, Debug)]
pub(crate) struct LockKey {
    pub(crate) key: Vec<u8>,
    pub(crate) create_revision: i64,
    pub(crate) mod_revision: i64,
    pub(crate) lease_id: i64,
    pub(crate) value: Vec<u8>,
}

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

    /// The first key of a read.
    pub(crate) fn first(get: &GetResponse) -> Option<LockKey> {
        get.kvs().first().map(LockKey::of)
    }

    /// The first key of each read of a transaction.
    pub(crate) fn firsts(response: &TxnResponse) -> Vec<Option<LockKey>> {
        let first = |op: &TxnOpResponse| match op {
            TxnOpResponse::Get(get) => LockKey::first(get),
            _ => None,
        };
        response.op_responses().iter().map(first).collect()
    }
}
