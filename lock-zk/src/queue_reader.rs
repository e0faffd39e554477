//! [`QueueReader`]: reads of queues that many callers share.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use futures_util::future::FutureExt as _;
use lock_core::kit::locked;

use crate::error::CallError;
use crate::limit::ConcurrencyLimit;
use crate::queue::{Queue, read_queue};
use crate::session_client::SessionClient;
use crate::sync::SharedFuture;

/// The reads of queues on one session. Callers share the next read of a queue that was not sent
/// yet: a thousand waiters for one lock, whose queue is a thousand nodes long, cost a few answers
/// and not a thousand.
#[derive(Clone, Default)]
pub(crate) struct QueueReader(Arc<Mutex<HashMap<ReadKey, PendingReads>>>);

/// The reads that callers may share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ReadKey {
    lock_path: String,
    /// `true` if the server is first brought up to what the quorum knows.
    sync: bool,
}

/// The reads of one queue.
struct PendingReads {
    limit: ConcurrencyLimit,
    /// The read that was not sent yet.
    next: Option<SharedRead>,
    /// The number of [`Interest`]s. The entry in the map goes with the last one.
    interested: usize,
}

type SharedRead = SharedFuture<Result<Arc<Queue>, CallError>>;

/// Counts a caller that reads a queue, or enters it, until it is dropped.
pub(crate) struct Interest {
    reader: QueueReader,
    key: ReadKey,
}

/// The most reads of one queue in flight.
const MAX_READS_IN_FLIGHT: usize = 2;

impl QueueReader {
    /// Reads a queue, as it is after this call.
    pub(crate) async fn read(
        &self,
        client: &SessionClient,
        lock_path: &str,
        sync: bool,
    ) -> Result<Arc<Queue>, CallError> {
        let (interest, _) = self.register(lock_path, sync);
        let read = {
            let mut all = locked(&self.0);
            let pending = all.get_mut(&interest.key).expect("BUG: a caller's interest keeps the entry");
            match pending.next.as_ref().filter(|next| next.peek().is_none()) {
                Some(next) => next.clone(),
                None => {
                    let read = self.next_read(client.clone(), pending.limit.clone(), interest.key.clone());
                    pending.next.insert(read).clone()
                }
            }
        };
        read.await
    }

    fn next_read(&self, client: SessionClient, limit: ConcurrencyLimit, key: ReadKey) -> SharedRead {
        let reader = self.clone();
        let work = async move {
            let call = move |client| {
                // It is sent now: callers from now on need another one.
                if let Some(pending) = locked(&reader.0).get_mut(&key) {
                    pending.next = None;
                }
                async move { read_queue(&client, &key.lock_path, key.sync).await.map(Arc::new) }
            };
            client.call(call).await
        };
        async move { limit.run(work).await }.boxed().shared()
    }

    /// Counts a caller that enters a queue; gives the number of others that enter it or read it
    /// now.
    pub(crate) fn announce(&self, lock_path: &str) -> (Interest, usize) {
        self.register(lock_path, false)
    }

    fn register(&self, lock_path: &str, sync: bool) -> (Interest, usize) {
        let key = ReadKey { lock_path: lock_path.to_owned(), sync };
        let mut all = locked(&self.0);
        let pending = all.entry(key.clone()).or_insert_with(PendingReads::new);
        pending.interested += 1;
        let others = pending.interested - 1;
        (Interest { reader: self.clone(), key }, others)
    }
}

impl PendingReads {
    fn new() -> PendingReads {
        PendingReads { limit: ConcurrencyLimit::new(MAX_READS_IN_FLIGHT), next: None, interested: 0 }
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        let mut all = locked(&self.reader.0);
        let Some(pending) = all.get_mut(&self.key) else { return };
        pending.interested -= 1;
        if pending.interested == 0 {
            all.remove(&self.key);
        }
    }
}

impl fmt::Debug for QueueReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueReader").field("queues", &locked(&self.0).len()).finish()
    }
}
