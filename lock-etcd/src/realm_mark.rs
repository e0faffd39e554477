//! [`RealmMark`]: the realm of the data, and its mark beside them.

use std::sync::Arc;

use etcd_client::{Client, Compare, CompareOp, Txn, TxnOp, TxnOpResponse, TxnResponse};
use lock_core::{Error, Realm, Result, random};

use crate::call::CallKind;
use crate::key_layout::KeyLayout;
use crate::members::Members;

/// The realm of the data: the cluster's id, and a random mark that was written beside the data.
///
/// The id alone is not enough: a cluster that starts anew at the same addresses has it again. So
/// every transaction that may grant a lock checks the mark.
#[derive(Clone, Debug)]
pub(crate) struct RealmMark {
    pub(crate) realm: Realm,
    key: Vec<u8>,
    mark: Vec<u8>,
}

impl RealmMark {
    /// Loads the mark; `None` if there is none.
    pub(crate) async fn load(members: &Members, names: &KeyLayout) -> Result<Option<RealmMark>> {
        let key = names.realm_key();
        let read = |client: Arc<Client>| {
            let key = key.clone();
            async move { client.kv_client().get(key, None).await }
        };
        let read = members.call(CallKind::Request, "reading the realm", read).await?.value;
        read.kvs().first().map(|kv| RealmMark::parse(members, key, kv.value().to_vec())).transpose()
    }

    /// Loads the mark; creates it if there is none.
    pub(crate) async fn load_or_create(members: &Members, names: &KeyLayout) -> Result<RealmMark> {
        if let Some(mark) = RealmMark::load(members, names).await? {
            return Ok(mark);
        }
        let (key, mark) = (names.realm_key(), random_mark());
        let absent = Compare::create_revision(key.clone(), CompareOp::Equal, 0);
        let found = put_mark(members, "beginning a realm", &key, &mark, absent).await?;
        RealmMark::parse(members, key, found)
    }

    fn parse(members: &Members, key: Vec<u8>, mark: Vec<u8>) -> Result<RealmMark> {
        let Some(cluster_id) = members.identity().id() else {
            return Err(Error::unexpected_reply("etcd does not say which cluster it is"));
        };
        let text = std::str::from_utf8(&mark).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        let text = text.ok_or_else(|| {
            Error::unexpected_reply(format!("the key {} of etcd is no mark of a realm", String::from_utf8_lossy(&key)))
        })?;
        Ok(RealmMark { realm: Realm::new(format!("etcd:{cluster_id:x}-{text}")), key, mark })
    }

    /// Begins a new realm of the same data, with a new mark.
    pub(crate) async fn begin_realm(&self, members: &Members) -> Result<RealmMark> {
        let mark = random_mark();
        let action = "beginning a new realm";
        let found = put_mark(members, action, &self.key, &mark, self.is_unchanged()).await?;
        if found != mark {
            let text = format!("{action} failed: it is no longer {}, since somebody has begun another", self.realm);
            return Err(Error::invalid_config(text));
        }
        RealmMark::parse(members, self.key.clone(), mark)
    }

    /// The condition that the realm is unchanged.
    pub(crate) fn is_unchanged(&self) -> Compare {
        Compare::value(self.key.clone(), CompareOp::Equal, self.mark.clone())
    }

    /// The read of the mark. It must be the first operation of a transaction.
    pub(crate) fn read_op(&self) -> TxnOp {
        TxnOp::get(self.key.clone(), None)
    }

    /// Fails if the first operation of a transaction has read another mark.
    pub(crate) fn check(&self, members: &Members, response: &TxnResponse) -> Result<()> {
        let Some(TxnOpResponse::Get(read)) = response.op_responses().into_iter().next() else { return Ok(()) };
        match read.kvs().first() {
            Some(kv) if kv.value() == self.mark => Ok(()),
            _ => Err(members.identity().refuse(&format!("etcd no longer has the data of {}", self.realm))),
        }
    }
}

fn random_mark() -> Vec<u8> {
    random::hex128().into_bytes()
}

/// Writes the mark if `condition` holds; gives the mark that is there.
async fn put_mark(members: &Members, action: &str, key: &[u8], mark: &[u8], condition: Compare) -> Result<Vec<u8>> {
    let txn = Txn::new().when([condition]).and_then([TxnOp::put(key, mark, None)]).or_else([TxnOp::get(key, None)]);
    let put = |client: Arc<Client>| {
        let txn = txn.clone();
        async move { client.kv_client().txn(txn).await }
    };
    let put = members.call(CallKind::Request, action, put).await?.value;
    match put.op_responses().first() {
        Some(TxnOpResponse::Put(_)) => Ok(mark.to_vec()),
        Some(TxnOpResponse::Get(read)) => Ok(read.kvs().first().map(|kv| kv.value().to_vec()).unwrap_or_default()),
        _ => Err(Error::unexpected_reply("a transaction of etcd has other answers than questions")),
    }
}
