//! [`Sessions`]: the etcd leases that carry the renewed leases of this process, one for each TTL.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _, Shared};
use lock_core::{Clock, Result, Session};

use crate::call::CallKind;
use crate::heartbeat::KeepAliveStream;
use crate::members::Members;

/// An etcd lease that carries leases of one TTL.
pub(crate) struct SharedLease {
    pub(crate) session: Session,
    pub(crate) id: i64,
    /// The stream of its heartbeats, while none is under way.
    pub(crate) stream: Mutex<Option<KeepAliveStream>>,
    /// About how many bytes of keys were put on it.
    key_bytes: AtomicUsize,
}

/// The etcd leases of this process, one for each TTL.
pub(crate) struct SessionPool {
    members: Arc<Members>,
    clock: Clock,
    by_ttl: Mutex<HashMap<u64, PoolSlot>>,
    by_lease: Mutex<HashMap<u64, Arc<SharedLease>>>,
}

/// The session of one TTL.
#[derive(Default)]
struct PoolSlot {
    current: Option<Arc<SharedLease>>,
    pending: Option<PendingLease>,
}

/// A session that is being opened, for all who want it.
type PendingLease = Shared<BoxFuture<'static, Result<Arc<SharedLease>>>>;

/// The keys of a session are read in every round, in one message; etcd's clients take messages of up to four
/// megabytes. A session that carries more is full, and another is opened beside it.
const MAX_KEY_BYTES: usize = 2 << 20;

impl SessionPool {
    pub(crate) fn new(members: Arc<Members>, clock: Clock) -> Arc<SessionPool> {
        Arc::new(SessionPool { members, clock, by_ttl: Mutex::default(), by_lease: Mutex::default() })
    }

    /// The session for leases of this TTL; a new one if there is none, or too little of it remains.
    ///
    /// It is opened in the background, once for all who want it: the runtime of one of them may stand still.
    pub(crate) async fn for_ttl(self: &Arc<Self>, ttl: Duration) -> Result<Arc<SharedLease>> {
        let opening = {
            let mut slots = locked(&self.by_ttl);
            let slot = slots.entry(whole_seconds(ttl)).or_default();
            if let Some(shared_lease) = slot.current.as_ref().filter(|shared_lease| shared_lease.is_usable()) {
                return Ok(shared_lease.clone());
            }
            match slot.pending.as_ref().filter(|opening| opening.peek().is_none()) {
                Some(opening) => opening.clone(),
                None => slot.pending.insert(self.open_in_background(ttl)?).clone(),
            }
        };
        // Boxed, so that the future of a request on a session that is open stays small.
        Box::pin(opening).await
    }

    fn open_in_background(self: &Arc<Self>, ttl: Duration) -> Result<PendingLease> {
        let sessions = self.clone();
        let task = lock_core::runtime::background()?.spawn(async move { sessions.open(ttl).await });
        let opened = async {
            task.await.unwrap_or_else(|_| Err(crate::error::unexpected_reply("BUG: opening a session panicked")))
        };
        Ok(opened.boxed().shared())
    }

    async fn open(&self, ttl: Duration) -> Result<Arc<SharedLease>> {
        let opening = Session::start(&self.clock);
        let (lease, granted) = grant(&self.members, ttl).await?;
        let session = opening.established(lease as u64, granted);
        let shared_lease =
            Arc::new(SharedLease { session, id: lease, stream: Mutex::default(), key_bytes: AtomicUsize::new(0) });
        self.members.identity().register_session(&shared_lease.session);
        let mut by_lease = locked(&self.by_lease);
        by_lease.retain(|_, shared_lease| shared_lease.session.is_valid());
        by_lease.insert(shared_lease.session.key(), shared_lease.clone());
        drop(by_lease);
        locked(&self.by_ttl).entry(whole_seconds(ttl)).or_default().current = Some(shared_lease.clone());
        Ok(shared_lease)
    }

    /// The carrier of this session.
    pub(crate) fn shared_lease(&self, session: &Session) -> Option<Arc<SharedLease>> {
        locked(&self.by_lease).get(&session.key()).cloned()
    }
}

impl SharedLease {
    fn is_usable(&self) -> bool {
        let session = &self.session;
        session.is_valid()
            && session.remaining() > session.ttl() / 2
            && self.key_bytes.load(Ordering::Relaxed) < MAX_KEY_BYTES
    }

    /// Another key of this length is put on it.
    pub(crate) fn add_key_bytes(&self, bytes: usize) {
        self.key_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What it carries was counted.
    pub(crate) fn set_key_bytes(&self, bytes: usize) {
        self.key_bytes.store(bytes, Ordering::Relaxed);
    }
}

/// A new etcd lease, and the TTL that it was granted: etcd counts whole seconds, and has a shortest TTL.
///
/// A grant whose answer was lost leaves an etcd lease without keys, which ends by itself.
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

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for SharedLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carrier").field("session", &self.session).finish_non_exhaustive()
    }
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
