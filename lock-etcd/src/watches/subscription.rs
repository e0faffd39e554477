//! [`Subscription`]: the wait for the deletion of one key.

use std::sync::Arc;

use etcd_client::Client;
use lock_core::Result;
use lock_core::kit::locked;
use tokio::sync::Notify;

use super::name_watch::{NameWatch, NextHead, Phase};
use crate::call::CallKind;
use crate::members::Members;

/// A subscription to the deletion of one key, until it is dropped.
pub(super) struct Subscription {
    watch: Arc<NameWatch>,
    key: Vec<u8>,
    create_revision: i64,
    woken: Arc<Notify>,
}

/// The state of the watch, for one subscription.
enum Coverage {
    Opening,
    /// The watch covers everything since the waiter's own reading.
    Covered,
    /// The key may have been deleted before the watch began.
    Gap,
    /// The wait is over; `None` if the watch was closed.
    Over(Option<Result<Option<NextHead>>>),
}

impl Subscription {
    pub(super) fn new(watch: Arc<NameWatch>, key: &[u8], create_revision: i64) -> Subscription {
        let woken = Arc::new(Notify::new());
        let mut state = locked(&watch.state);
        state.used = true;
        state.subscribers.entry(key.to_vec()).or_default().push(woken.clone());
        drop(state);
        Subscription { watch, key: key.to_vec(), create_revision, woken }
    }

    /// Waits until the key may have been deleted after revision `seen`; `None` if the watch was
    /// closed.
    pub(super) async fn wait(&self, members: &Members, seen: i64) -> Option<Result<Option<NextHead>>> {
        loop {
            match self.coverage(seen) {
                Coverage::Opening => self.woken.notified().await,
                Coverage::Over(result) => return result,
                Coverage::Covered => break,
                Coverage::Gap => match is_unchanged(members, &self.key, self.create_revision).await {
                    Ok(true) => break,
                    Ok(false) => return Some(Ok(None)),
                    Err(error) => return Some(Err(error)),
                },
            }
        }
        self.woken.notified().await;
        match self.coverage(seen) {
            Coverage::Over(Some(result)) => Some(result),
            _ => Some(Ok(None)),
        }
    }

    fn coverage(&self, seen: i64) -> Coverage {
        let state = locked(&self.watch.state);
        let mut newest_first = state.deletions.iter().rev();
        let deletion = newest_first.find(|deletion| deletion.revision > seen && deletion.key == self.key);
        match (deletion, &state.phase) {
            // While a deletion is pending, its reply is still to come, with the next head.
            (Some(deletion), _) if deletion.next.is_some() || !state.pending_deletions.contains_key(&self.key) => {
                Coverage::Over(Some(Ok(deletion.next.clone())))
            }
            (_, Phase::Closed) => Coverage::Over(None),
            (_, Phase::Failed(error)) => Coverage::Over(Some(Err(error.clone()))),
            (_, Phase::Opening) => Coverage::Opening,
            (Some(_), Phase::Live) => Coverage::Covered,
            (None, Phase::Live) if state.complete_from <= seen => Coverage::Covered,
            (None, Phase::Live) => Coverage::Gap,
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = locked(&self.watch.state);
        if let Some(subscribers) = state.subscribers.get_mut(&self.key) {
            subscribers.retain(|woken| !Arc::ptr_eq(woken, &self.woken));
            if subscribers.is_empty() {
                state.subscribers.remove(&self.key);
            }
        }
    }
}

/// True if this key still has this create revision: it may have been deleted, and created again.
async fn is_unchanged(members: &Members, key: &[u8], create_revision: i64) -> Result<bool> {
    let read = |client: Arc<Client>| {
        let key = key.to_vec();
        async move { client.kv_client().get(key, None).await }
    };
    let reply = members.call(CallKind::Request, "looking at who is ahead", read).await?.value;
    Ok(reply.kvs().first().is_some_and(|kv| kv.create_revision() == create_revision))
}
