//! [`QueueReader`]: looks at lines that many share.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use futures_util::future::{BoxFuture, FutureExt as _, Shared};

use crate::error::CallError;
use crate::limit::ConcurrencyLimit;
use crate::queue::Queue;
use crate::session::locked;
use crate::session_client::SessionClient;
use crate::store::read_queue;

/// The looks of one session at lines. Who wants to look at a line shares the look of all who want the same and whose
/// question has not been sent yet: a thousand waiters for one name, whose line is a thousand nodes long, cost a few
/// answers and not a thousand.
#[derive(Clone, Default)]
pub(crate) struct QueueReader(Arc<Mutex<HashMap<ReadKey, PendingReads>>>);

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ReadKey {
    /// The node of a lock.
    lock_path: String,
    /// Whether the server is to be brought up to the others before.
    sync: bool,
}

/// Who looks at one line.
struct PendingReads {
    limit: ConcurrencyLimit,
    /// The look that was not sent yet.
    next: Option<SharedRead>,
    interested: usize,
}

type SharedRead = Shared<BoxFuture<'static, Result<Arc<Queue>, CallError>>>;

/// Somebody who looks at a line, or comes into it.
pub(crate) struct Interest {
    queue_reader: QueueReader,
    key: ReadKey,
}

/// How many looks at one line are under way at once.
const MAX_READS_IN_FLIGHT: usize = 2;

impl QueueReader {
    /// Looks at a line, as it is after this call.
    pub(crate) async fn read(
        &self,
        client: &SessionClient,
        lock_path: &str,
        sync: bool,
    ) -> Result<Arc<Queue>, CallError> {
        let (interest, _) = self.register(lock_path, sync);
        let read = {
            let mut all = locked(&self.0);
            let pending = all.get_mut(&interest.key).expect("BUG: a user keeps its entry");
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
        let queue_reader = self.clone();
        let work = async move {
            // Who comes from now on needs another one.
            let step = move |client| {
                if let Some(pending) = locked(&queue_reader.0).get_mut(&key) {
                    pending.next = None;
                }
                async move { read_queue(&client, &key.lock_path, key.sync).await.map(Arc::new) }
            };
            client.call(step).await
        };
        async move { limit.run(work).await }.boxed().shared()
    }

    /// Somebody who comes into a line, and how many others do so or look at it just now.
    pub(crate) fn announce(&self, lock_path: &str) -> (Interest, usize) {
        self.register(lock_path, false)
    }

    fn register(&self, lock_path: &str, sync: bool) -> (Interest, usize) {
        let key = ReadKey { lock_path: lock_path.to_owned(), sync };
        let mut all = locked(&self.0);
        let pending = all.entry(key.clone()).or_insert_with(PendingReads::new);
        pending.interested += 1;
        let others = pending.interested - 1;
        (Interest { queue_reader: self.clone(), key }, others)
    }
}

impl PendingReads {
    fn new() -> PendingReads {
        PendingReads { limit: ConcurrencyLimit::new(MAX_READS_IN_FLIGHT), next: None, interested: 0 }
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        let mut all = locked(&self.queue_reader.0);
        let Some(pending) = all.get_mut(&self.key) else { return };
        pending.interested -= 1;
        if pending.interested == 0 {
            all.remove(&self.key);
        }
    }
}

impl fmt::Debug for QueueReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Looks").field("queues", &locked(&self.0).len()).finish()
    }
}
