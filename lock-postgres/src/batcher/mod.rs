//! [`Batcher`]: sends concurrent requests and releases in batches, each of them one statement.
//!
//! `queue` holds what waits, `request` and `release` send one batch, and the sender tasks here take
//! batches from the queue as connections become free.

mod queue;
mod release;
mod request;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lock_core::runtime::{PerRuntime, background};
use lock_core::{Attempt, Claim, Error, ReleaseOutcome, Result};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;

use self::queue::{Batch, Queue, reject};
use self::release::ReleaseSender;
use self::request::RequestSender;
use crate::database::Database;
use crate::error;
use crate::pool::PooledConnection;
use crate::pruner::Pruner;
use crate::row_decoder::RowDecoder;
use crate::statements::Statements;

/// Sends concurrent requests and releases in batches: one statement for many costs the server, and
/// a slow network, far less than many statements.
///
/// While a connection is free, each call is sent at once, alone. While all are in use, calls queue,
/// and the next free connection takes all that have queued as one batch. A batch is sent by a task
/// of its own: a caller that is cancelled aborts nothing, and a caller whose future is not polled
/// delays no other.
#[derive(Debug)]
pub(crate) struct Batcher {
    runtimes: PerRuntime<Arc<RuntimeBatcher>>,
}

/// The queue of one runtime, and how its batches are sent.
#[derive(Debug)]
struct RuntimeBatcher {
    database: Arc<Database>,
    requests: RequestSender,
    releases: Arc<ReleaseSender>,
    queue: Mutex<Queue>,
}

/// Time for which no further sender starts after one found no connection while others have theirs.
const SENDER_BACKOFF: Duration = Duration::from_secs(1);

impl Batcher {
    pub(crate) fn new(
        database: &Arc<Database>,
        statements: &Arc<Statements>,
        decoder: &Arc<RowDecoder>,
        pruner: &Arc<Pruner>,
    ) -> Batcher {
        let (database, statements) = (database.clone(), statements.clone());
        let (decoder, pruner) = (decoder.clone(), pruner.clone());
        let make = move || {
            Arc::new(RuntimeBatcher {
                requests: RequestSender::new(&statements, &decoder, &pruner),
                releases: Arc::new(ReleaseSender::new(&database, &statements)),
                database: database.clone(),
                queue: Mutex::default(),
            })
        };
        Batcher { runtimes: PerRuntime::new(make) }
    }

    /// Requests a lock. `None`: another transaction has locked its row, or is inserting it.
    pub(crate) async fn request(&self, claim: &Claim) -> Result<Option<Attempt>> {
        let (sender, outcome) = oneshot::channel();
        self.submit(|queue| queue.push_request(claim.clone(), sender))?;
        outcome.await.unwrap_or_else(|_| Err(error::runtime_ended()))
    }

    /// Releases a lock.
    pub(crate) async fn release(&self, claim: &Claim) -> Result<ReleaseOutcome> {
        let (sender, outcome) = oneshot::channel();
        self.submit(|queue| queue.push_release(claim.clone(), sender))?;
        outcome.await.unwrap_or_else(|_| Err(error::runtime_ended()))
    }

    /// Queues one call, and starts another sender task if there may be one.
    fn submit(&self, push: impl FnOnce(&mut Queue)) -> Result<()> {
        let batcher = self.runtimes.get()?;
        let mut queue = batcher.queue();
        push(&mut queue);
        if !queue.may_start_sender(batcher.database.config().connections) {
            return Ok(());
        }
        queue.senders += 1;
        drop(queue);
        // A task that is spawned on a runtime that has ended is dropped here and now.
        let sender = Sender { batcher: Arc::clone(&batcher), has_ended: false };
        Handle::try_current().or_else(|_| background())?.spawn(sender.run());
        Ok(())
    }
}

/// A task that sends batches, over one connection at a time, until the queue is empty.
struct Sender {
    batcher: Arc<RuntimeBatcher>,
    has_ended: bool,
}

impl Sender {
    async fn run(mut self) {
        while !self.ends_if_idle() {
            let connection = match self.batcher.database.steps() {
                Ok(pool) => pool.acquire().await,
                Err(error) => Err(error),
            };
            match connection {
                // The batch is taken only now, so that all that queued meanwhile goes along.
                Ok(connection) => self.batcher.send_next(connection).await,
                Err(error) => {
                    self.has_ended = true;
                    return self.batcher.end_without_connection(&error);
                }
            }
        }
    }

    /// Ends this sender if the queue is empty. Both happen under the queue's lock, so that no call
    /// is left behind.
    fn ends_if_idle(&mut self) -> bool {
        let mut queue = self.batcher.queue();
        if queue.is_empty() {
            queue.senders -= 1;
            self.has_ended = true;
        }
        self.has_ended
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        // The runtime ends: if this was the last sender, nobody is left to send what waits.
        let mut queue = self.batcher.queue();
        queue.senders -= 1;
        let unsent = if queue.senders == 0 { queue.take_all() } else { Default::default() };
        drop(queue);
        drop(unsent);
    }
}

impl RuntimeBatcher {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the next batch.
    async fn send_next(&self, mut connection: PooledConnection) {
        let batch = self.queue().next_batch();
        match batch {
            None => {}
            Some(Batch::Requests(requests)) => self.requests.send(&mut connection, requests).await,
            Some(Batch::Releases(releases)) => self.releases.send(&mut connection, releases).await,
        }
    }

    /// Ends a sender that got no connection. The other senders go on with the queue; without any,
    /// all calls in it fail.
    fn end_without_connection(&self, error: &Error) {
        let mut queue = self.queue();
        queue.senders -= 1;
        if queue.senders > 0 {
            queue.no_sender_until = Some(Instant::now() + SENDER_BACKOFF);
            return;
        }
        let (requests, releases) = queue.take_all();
        drop(queue);
        reject(requests, error);
        reject(releases, error);
    }
}
