//! [`PresentMember`]: a member that answers, with its record.

use std::sync::Arc;
use std::time::Duration;

use super::record::Record;
use crate::contract::{LockStore, RecordStore, StoredRecord};
use crate::words::{Effect, Error, ErrorKind, Realm, Result};

/// Time-out of one call about the quorum itself. It is longer than that of a call about a lock,
/// since no lease depends on it.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum number of attempts at a change that conflicts with changes of other clients.
const MAX_CONFLICT_RETRIES: usize = 16;

/// A member that answers, with its record.
#[derive(Clone)]
pub(super) struct PresentMember {
    pub(super) at: usize,
    pub(super) store: Arc<dyn LockStore>,
    kept: StoredRecord,
    pub(super) record: Record,
}

impl PresentMember {
    /// Reads the record of a member. One that keeps no records has only the realm of its data.
    pub(super) async fn ask(at: usize, store: Arc<dyn LockStore>) -> Result<PresentMember> {
        let kept = match keeps(&*store) {
            Some(keeps) => bounded(keeps.read_record()).await?,
            None => StoredRecord { realm: store.realm(), text: None },
        };
        let record = Record::read(kept.text.as_deref())?;
        Ok(PresentMember { at, store, kept, record })
    }

    /// The realm of its data.
    pub(super) fn realm(&self) -> &Realm {
        &self.kept.realm
    }

    /// Changes the record, by compare-and-set. Returns true if the change was made. In either case
    /// `self` has the stored record afterwards.
    pub(super) async fn change(&mut self, change: impl Fn(&mut Record) -> bool) -> Result<bool> {
        let store = self.store.clone();
        let keeps = keeps(&*store).ok_or_else(|| Error::refused(ErrorKind::Protocol, "it keeps nothing any more"))?;
        for _ in 0..MAX_CONFLICT_RETRIES {
            let mut record = self.record.clone();
            if !change(&mut record) {
                return Ok(false);
            }
            if record == self.record {
                return Ok(true);
            }
            let text = record.text();
            if bounded(keeps.replace_record(&self.kept, &text)).await? {
                self.kept.text = Some(text);
                self.record = record;
                return Ok(true);
            }
            let now = bounded(keeps.read_record()).await?;
            if now.realm != self.kept.realm {
                return Err(Error::refused(ErrorKind::Unavailable, "its data became others meanwhile"));
            }
            self.record = Record::read(now.text.as_deref())?;
            self.kept = now;
        }
        Ok(false)
    }
}

pub(super) fn keeps(store: &dyn LockStore) -> Option<&dyn RecordStore> {
    store.token_raiser()?.record_store()
}

async fn bounded<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Err(Error::no_answer("it", CALL_TIMEOUT, Effect::Unknown));
    tokio::time::timeout(CALL_TIMEOUT, call).await.unwrap_or_else(late)
}
