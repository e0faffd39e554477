//! [`Carriers`]: the connections of this process that have advisory locks, one for each TTL.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lock_core::runtime::background;
use lock_core::{Clock, Result, Session};

use super::carrier::Carrier;
use super::sql::AdvisorySql;
use crate::error;
use crate::link::Link;

/// The connections of this process that have advisory locks, one for each TTL of renewed leases, and one for each lease
/// that is not renewed.
#[derive(Debug)]
pub(crate) struct Carriers {
    sql: Arc<AdvisorySql>,
    clock: Clock,
    by_ttl: Mutex<HashMap<Duration, Slot>>,
    by_session: Mutex<HashMap<u64, Carrier>>,
    opened: AtomicU64,
}

type Slot = Arc<tokio::sync::Mutex<Option<Carrier>>>;

impl Carriers {
    pub(crate) fn new(sql: Arc<AdvisorySql>, clock: Clock) -> Carriers {
        Carriers { sql, clock, by_ttl: Mutex::default(), by_session: Mutex::default(), opened: AtomicU64::new(0) }
    }

    /// The connection for renewed leases of this TTL; a new one if there is none, or too little of its session remains.
    ///
    /// It is made in the background, as it belongs to no caller and no caller may hold up the others.
    pub(crate) async fn for_ttl(self: &Arc<Self>, link: &Arc<Link>, ttl: Duration) -> Result<Carrier> {
        let (carriers, link) = (self.clone(), link.clone());
        in_background(async move { carriers.shared(&link, ttl).await }).await
    }

    /// A connection for one lease that is not renewed; it ends with the last copy of what this gives.
    pub(crate) async fn alone(self: &Arc<Self>, link: &Arc<Link>, ttl: Duration) -> Result<Carrier> {
        let (carriers, link) = (self.clone(), link.clone());
        in_background(async move { carriers.open(&link, ttl, false).await }).await
    }

    async fn shared(&self, link: &Link, ttl: Duration) -> Result<Carrier> {
        let slot = locked(&self.by_ttl).entry(ttl).or_default().clone();
        let mut slot = slot.lock().await;
        if let Some(carrier) = slot.as_ref().filter(|carrier| is_usable(carrier)) {
            return Ok(carrier.clone());
        }
        let carrier = self.open(link, ttl, true).await?;
        let mut by_session = locked(&self.by_session);
        by_session.retain(|_, carrier| carrier.is_open());
        by_session.insert(carrier.session.key(), carrier.clone());
        drop(by_session);
        *slot = Some(carrier.clone());
        Ok(carrier)
    }

    /// The connection of this session.
    pub(crate) fn of(&self, session: &Session) -> Option<Carrier> {
        locked(&self.by_session).get(&session.key()).cloned()
    }

    async fn open(&self, link: &Link, ttl: Duration, shared: bool) -> Result<Carrier> {
        let opening = Session::start(&self.clock);
        let connection = link.dial().await?;
        let session = opening.established(self.opened.fetch_add(1, Ordering::Relaxed) + 1, ttl);
        let limit = link.config().response_timeout;
        Ok(Carrier::start(connection, self.sql.clone(), limit, session, shared))
    }
}

async fn in_background<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    background()?.spawn(work).await.unwrap_or_else(|_| Err(error::ending()))
}

fn is_usable(carrier: &Carrier) -> bool {
    let session = &carrier.session;
    carrier.is_open() && session.is_valid() && session.remaining() > session.ttl() / 2
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
