//! [`Backend`]: the state of one handle, and the calls that every operation uses.

use std::sync::{Arc, Mutex};

use etcd_client::{Client, Txn, TxnOp, TxnResponse};
use futures_util::future::{join, try_join_all};
use lock_core::kit::Sessions;
use lock_core::kit::locked;
use lock_core::{Clock, Error, HeldBy, Realm, Result};

use crate::call::{CallError, CallKind, CallReply};
use crate::config::EtcdConfig;
use crate::connections::CallPermit;
use crate::heartbeat::Heartbeat;
use crate::holder_record;
use crate::key_layout::KeyLayout;
use crate::key_pool::KeyPool;
use crate::lock_key::LockKey;
use crate::members::Members;
use crate::realm_mark::RealmMark;
use crate::watches::Watches;

/// The state of one handle. The operations of the contract are methods in files of their own.
pub(crate) struct Backend {
    pub(crate) members: Arc<Members>,
    pub(crate) layout: KeyLayout,
    pub(crate) clock: Clock,
    /// The realm of the data. Only an operator begins another.
    realm_mark: Mutex<Arc<RealmMark>>,
    /// Number of voting members.
    pub(crate) voters: usize,
    pub(crate) sessions: Sessions<Backend>,
    pub(crate) heartbeat: Heartbeat,
    pub(crate) watches: Watches,
    pub(crate) key_pool: Arc<KeyPool>,
}

/// Maximum number of keys in one read: etcd takes transactions of up to 128 operations.
const MAX_KEYS_PER_READ: usize = 64;

impl Backend {
    /// Connects, lists the members, and reads the realm's mark.
    pub(crate) async fn connect(config: EtcdConfig, clock: &Clock) -> Result<Backend> {
        let members = Arc::new(Members::new(&config)?);
        let layout = KeyLayout::new(config.prefix);
        let list = |client: Arc<Client>| async move { client.cluster_client().member_list().await };
        let listed = members.call(CallKind::Request, "connecting", list).await?;
        let (one_cluster, realm_mark) =
            join(members.check_one_cluster(listed.member), RealmMark::load_or_create(&members, &layout)).await;
        one_cluster?;
        let realm_mark = Mutex::new(Arc::new(realm_mark?));
        let voters = listed.value.members().iter().filter(|member| !member.is_learner()).count();
        Ok(Backend {
            clock: clock.clone(),
            realm_mark,
            voters,
            sessions: Sessions::new(),
            heartbeat: Heartbeat { members: members.clone(), key: layout.tombstone_prefix().into_bytes() },
            watches: Watches::new(members.clone()),
            key_pool: KeyPool::new(),
            members,
            layout,
        })
    }

    pub(crate) fn realm_mark(&self) -> Arc<RealmMark> {
        locked(&self.realm_mark).clone()
    }

    pub(crate) fn realm(&self) -> Realm {
        self.realm_mark().realm.clone()
    }

    /// Begins a new realm, in which this handle goes on.
    pub(crate) async fn begin_realm(&self) -> Result<Realm> {
        let mark = self.realm_mark().begin_realm(&self.members).await?;
        let realm = mark.realm.clone();
        *locked(&self.realm_mark) = Arc::new(mark);
        Ok(realm)
    }

    /// Runs a transaction that is safe to repeat.
    pub(crate) async fn transact(
        &self,
        kind: CallKind,
        action: &str,
        txn: Txn,
    ) -> Result<CallReply<TxnResponse>, CallError> {
        let permit = self.members.acquire_permit(kind, action).await.map_err(CallError::of)?;
        self.transact_with(&permit, action, txn).await
    }

    /// As [`transact`](Backend::transact), with this permit.
    pub(crate) async fn transact_with(
        &self,
        permit: &CallPermit,
        action: &str,
        txn: Txn,
    ) -> Result<CallReply<TxnResponse>, CallError> {
        let call = |client: Arc<Client>| {
            let txn = txn.clone();
            async move { client.kv_client().txn(txn).await }
        };
        self.members.call_with(permit, action, call).await
    }

    /// Reads these keys; the results are in the order of `keys`.
    pub(crate) async fn read_keys<'a>(
        &self,
        kind: CallKind,
        keys: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Vec<Option<LockKey>>> {
        let keys: Vec<_> = keys.collect();
        let read = |keys: &[&[u8]]| {
            let get = keys.iter().map(|key| TxnOp::get(*key, None)).collect::<Vec<_>>();
            async move {
                let reply = self.transact(kind, "reading keys", Txn::new().and_then(get)).await?.value;
                Ok::<_, Error>(LockKey::firsts(&reply))
            }
        };
        let found = try_join_all(keys.chunks(MAX_KEYS_PER_READ).map(read)).await?.concat();
        if found.len() != keys.len() {
            return Err(Error::unexpected_reply("a transaction of etcd has other answers than questions"));
        }
        Ok(found)
    }

    /// Revokes an etcd lease that is no longer used. If this fails, the lease ends by itself.
    pub(crate) async fn revoke(&self, lease_id: i64) {
        let revoke = |client: Arc<Client>| async move { client.lease_client().revoke(lease_id).await };
        if let Err(failed) = self.members.call(CallKind::Release, "ending a lease", revoke).await {
            tracing::debug!(error = %failed.error, "a lease that nobody needs was left to end by itself");
        }
    }

    /// The holder of a lock whose queue has this head.
    pub(crate) fn held_by(&self, head: &LockKey) -> HeldBy {
        holder_record::held_by(head, &self.realm())
    }
}
