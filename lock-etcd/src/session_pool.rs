//! [`SessionPool`]: the shared leases of a handle, one for each TTL.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _, Shared};
use lock_core::{Clock, Result, Session};

use crate::call::CallKind;
use crate::error::unexpected_reply;
use crate::members::Members;
use crate::shared_lease::SharedLease;
use crate::sync::locked;

/// The shared leases of a handle, one for each TTL.
pub(crate) struct SessionPool {
    members: Arc<Members>,
    clock: Clock,
    by_ttl: Mutex<HashMap<u64, PoolSlot>>,
    by_lease: Mutex<HashMap<u64, Arc<SharedLease>>>,
}

/// The shared lease of one TTL.
#[derive(Default)]
struct PoolSlot {
    current: Option<Arc<SharedLease>>,
    pending: Option<PendingLease>,
}

/// A lease that is being granted, for every claim that waits for it.
type PendingLease = Shared<BoxFuture<'static, Result<Arc<SharedLease>>>>;

impl SessionPool {
    pub(crate) fn new(members: Arc<Members>, clock: Clock) -> Arc<SessionPool> {
        Arc::new(SessionPool { members, clock, by_ttl: Mutex::default(), by_lease: Mutex::default() })
    }

    /// The shared lease for this TTL; a new one if there is none that is usable.
    ///
    /// It is granted in the background, once for every claim that waits for it: the runtime of one
    /// of them may stand still.
    pub(crate) async fn for_ttl(self: &Arc<Self>, ttl: Duration) -> Result<Arc<SharedLease>> {
        let pending = {
            let mut slots = locked(&self.by_ttl);
            let slot = slots.entry(whole_seconds(ttl)).or_default();
            if let Some(lease) = slot.current.as_ref().filter(|lease| lease.is_usable()) {
                return Ok(lease.clone());
            }
            match slot.pending.as_ref().filter(|pending| pending.peek().is_none()) {
                Some(pending) => pending.clone(),
                None => slot.pending.insert(self.open_in_background(ttl)?).clone(),
            }
        };
        // Boxed, so that the future of a request on a session that is open stays small.
        Box::pin(pending).await
    }

    fn open_in_background(self: &Arc<Self>, ttl: Duration) -> Result<PendingLease> {
        let pool = self.clone();
        let task = lock_core::runtime::background()?.spawn(async move { pool.open(ttl).await });
        let opened = async { task.await.unwrap_or_else(|_| Err(unexpected_reply("BUG: opening a session panicked"))) };
        Ok(opened.boxed().shared())
    }

    async fn open(&self, ttl: Duration) -> Result<Arc<SharedLease>> {
        let pending = Session::start(&self.clock);
        let (lease_id, granted) = grant(&self.members, ttl).await?;
        let session = pending.established(lease_id as u64, granted);
        let lease = Arc::new(SharedLease::new(session, lease_id));
        self.members.identity().register_session(&lease.session);
        let mut by_lease = locked(&self.by_lease);
        by_lease.retain(|_, lease| lease.session.is_valid());
        by_lease.insert(lease.session.key(), lease.clone());
        drop(by_lease);
        locked(&self.by_ttl).entry(whole_seconds(ttl)).or_default().current = Some(lease.clone());
        Ok(lease)
    }

    /// The shared lease of this session.
    pub(crate) fn shared_lease(&self, session: &Session) -> Option<Arc<SharedLease>> {
        locked(&self.by_lease).get(&session.key()).cloned()
    }
}

/// Grants an etcd lease; gives its id and its TTL. Etcd counts whole seconds, and has a shortest
/// TTL.
///
/// A grant whose reply was lost leaves an etcd lease without keys, which ends by itself.
pub(crate) async fn grant(members: &Members, ttl: Duration) -> Result<(i64, Duration)> {
    let wanted = i64::try_from(whole_seconds(ttl)).unwrap_or(i64::MAX);
    let grant = |client: Arc<etcd_client::Client>| async move { client.lease_client().grant(wanted, None).await };
    let granted = members.call(CallKind::Request, "opening a session", grant).await?.value;
    Ok((granted.id(), Duration::from_secs(u64::try_from(granted.ttl()).unwrap_or(0))))
}

/// A TTL in whole seconds, rounded up.
fn whole_seconds(ttl: Duration) -> u64 {
    ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_of_a_second_is_rounded_up() {
        assert_eq!(whole_seconds(Duration::from_secs(3)), 3);
        assert_eq!(whole_seconds(Duration::from_millis(2_001)), 3);
        assert_eq!(whole_seconds(Duration::from_millis(1)), 1);
    }
}
