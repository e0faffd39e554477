//! [`Batcher`]: operations of the same time travel in one call.
//!
//! `reply` answers each caller exactly once, and `op_queue` is the queue: these are also for a store
//! whose batches are taken by a thread of its own. The batcher here is for batches that are sent by
//! tasks.

mod op_queue;
mod pending_op;
mod reply;
mod state;
#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::{Handle, Id};

pub use self::op_queue::{OpQueue, Priority, Taken};
pub use self::pending_op::PendingOp;
pub use self::reply::{ReplyReceiver, ReplySender, reply_channel};
use self::state::State;
use crate::engine::catch_panic;
use crate::runtime;
use crate::sync::locked;
use crate::words::{Effect, Error, ErrorKind, Result};

/// A store's side of a [`Batcher`]: what one call is.
pub trait BatchExecutor: Send + Sync + Sized + 'static {
    /// An operation.
    type Op: Send + 'static;

    /// The reply to one operation.
    type Reply: Send + 'static;

    /// The batcher that sends by this executor.
    fn batcher(&self) -> &Batcher<Self::Op, Self::Reply>;

    /// Makes one call of a batch, which is not empty, and answers each operation. An operation that
    /// is dropped without a reply has the error of a call that was cut off. The call must end: one
    /// that is in flight for ever keeps others out for ever.
    ///
    /// # Cancel safety
    ///
    /// It runs in a task, whichever callers are polled or gone, and is dropped only with the
    /// runtime.
    fn execute(self: Arc<Self>, batch: Vec<PendingOp<Self::Op, Self::Reply>>) -> impl Future<Output = ()> + Send;
}

/// Operations of the same time travel in one call, which costs a server, a slow network and this
/// process far less than a call for each.
///
/// While fewer calls than the target are in flight, an operation is sent at once. Otherwise it
/// waits until a call has ended, and is sent with all that have come meanwhile. Where the limit is
/// greater than the target, and nothing is sent for 20 ms, what waits is sent all the same.
///
/// Each operation has one answer, also if its call panics or its runtime ends: an error then says
/// whether it may have been sent. An operation whose caller has gone before it is sent is left out.
pub struct Batcher<Op, Reply> {
    /// Name of the store in error texts.
    store: &'static str,
    max_batch: usize,
    target_in_flight: usize,
    max_in_flight: usize,
    state: Mutex<State<Op, Reply>>,
}

/// Outcome of [`Batcher::submit`].
#[derive(Debug)]
pub enum Submission<E: BatchExecutor> {
    /// The caller sends its operation by itself, and holds the permit meanwhile.
    Alone(Permit<E>),
    /// The operation was sent with others.
    Batched(E::Reply),
}

/// The right to one call. When it is dropped, what waits is sent.
pub struct Permit<E: BatchExecutor> {
    executor: Arc<E>,
}

/// Flush interval. A caller whose future is not polled keeps its permit, and a server may be slow;
/// operations that wait are then sent after at most two intervals.
const FLUSH_INTERVAL: Duration = Duration::from_millis(10);

impl<Op: Send + 'static, Reply: Send + 'static> Batcher<Op, Reply> {
    /// A batcher with at most `max_batch` operations in one call, and one call in flight. `store` is
    /// the name in error texts.
    pub fn new(store: &'static str, max_batch: usize) -> Batcher<Op, Reply> {
        Batcher { store, max_batch, target_in_flight: 1, max_in_flight: 1, state: Mutex::new(State::new()) }
    }

    /// With `target` calls in flight before operations wait, and up to `max` where these do not
    /// end. Callers that [`submit`](Batcher::submit) need a limit above the target.
    #[must_use]
    pub fn with_in_flight(mut self, target: usize, max: usize) -> Batcher<Op, Reply> {
        self.target_in_flight = target.max(1);
        self.max_in_flight = max.max(self.target_in_flight);
        self
    }

    /// Sends an operation with others, by a task; alone if the target of calls in flight is not
    /// reached.
    ///
    /// # Errors
    ///
    /// Those of the executor. [`Unavailable`](ErrorKind::Unavailable) if the runtime has ended, or
    /// the executor gave no reply; the effect is unknown if the operation was sent.
    ///
    /// # Cancel safety
    ///
    /// An operation that is not sent yet is left out; one that is sent goes on.
    pub async fn run<E>(executor: &Arc<E>, op: Op, priority: Priority) -> Result<Reply>
    where
        E: BatchExecutor<Op = Op, Reply = Reply>,
    {
        let reply = Self::enqueue(executor, op, priority)?;
        executor.batcher().recv(reply).await
    }

    /// Lets the caller send its operation by itself, if the target of calls in flight is not
    /// reached: this costs no task and no channel. Otherwise sends the operation, which `op` makes,
    /// with others.
    ///
    /// # Errors
    ///
    /// As for [`run`](Batcher::run).
    ///
    /// # Cancel safety
    ///
    /// As for [`run`](Batcher::run). A permit that is dropped is given back.
    pub async fn submit<E>(executor: &Arc<E>, op: impl FnOnce() -> Op) -> Result<Submission<E>>
    where
        E: BatchExecutor<Op = Op, Reply = Reply>,
    {
        let reply = match Self::enqueue_unless_alone(executor, op) {
            Ok(permit) => return Ok(Submission::Alone(permit)),
            Err(reply) => reply,
        };
        executor.batcher().recv(reply).await.map(Submission::Batched)
    }

    fn enqueue_unless_alone<E>(executor: &Arc<E>, op: impl FnOnce() -> Op) -> Result<Permit<E>, ReplyReceiver<Reply>>
    where
        E: BatchExecutor<Op = Op, Reply = Reply>,
    {
        let batcher = executor.batcher();
        let mut state = locked(&batcher.state);
        let runtime = (state.in_flight >= batcher.target_in_flight).then(runtime::for_caller);
        // Without a runtime no task could send the queue.
        let Some(Ok(runtime)) = runtime else {
            state.in_flight += 1;
            return Ok(Permit { executor: executor.clone() });
        };
        let (pending, reply) = PendingOp::new(op(), &runtime);
        state.queue.push(pending, Priority::Normal);
        let needs_flusher = batcher.needs_flusher(&mut state);
        // Not under the lock: on a runtime that has ended, `spawn` drops the task here and now.
        drop(state);
        if needs_flusher {
            Flusher::spawn(executor, &runtime);
        }
        Err(reply)
    }

    fn enqueue<E>(executor: &Arc<E>, op: Op, priority: Priority) -> Result<ReplyReceiver<Reply>>
    where
        E: BatchExecutor<Op = Op, Reply = Reply>,
    {
        let batcher = executor.batcher();
        let runtime = runtime::for_caller()?;
        let (pending, reply) = PendingOp::new(op, &runtime);
        let mut state = locked(&batcher.state);
        state.queue.push(pending, priority);
        let lane = state.begin_call(priority, batcher.target_in_flight);
        let needs_flusher = lane.is_none() && batcher.needs_flusher(&mut state);
        drop(state);
        if let Some(lane) = lane {
            Sender::spawn(executor.clone(), lane, &runtime);
        }
        if needs_flusher {
            Flusher::spawn(executor, &runtime);
        }
        Ok(reply)
    }

    async fn recv(&self, reply: ReplyReceiver<Reply>) -> Result<Reply> {
        let no_reply = |effect| {
            let what = match effect {
                Effect::None => "the runtime that was to send this has ended; nothing was sent",
                Effect::Unknown => "the call that carried this with others was cut off; the outcome is unknown",
            };
            Error::new(ErrorKind::Unavailable, effect, format!("{}: {what}", self.store))
        };
        reply.recv(no_reply).await
    }

    fn needs_flusher(&self, state: &mut State<Op, Reply>) -> bool {
        self.target_in_flight < self.max_in_flight && state.begin_flusher()
    }

    /// The next batch for a call; `None` if nothing waits for it, and then the call has ended.
    fn next_batch(&self, lane: Priority) -> Option<Vec<PendingOp<Op, Reply>>> {
        let Taken { batch, gone } = locked(&self.state).next_batch(lane, self.max_batch);
        // Not under the lock: it may be the last of what an operation refers to.
        drop(gone);
        (!batch.is_empty()).then_some(batch)
    }

    /// Ends a call, or begins the next with what waits for it.
    fn hand_over<E>(executor: &Arc<E>, lane: Priority)
    where
        E: BatchExecutor<Op = Op, Reply = Reply>,
    {
        // Whoever ends a call may have no runtime; a pending operation has one.
        let runtime = locked(&executor.batcher().state).next_runtime(lane);
        if let Some(runtime) = runtime {
            Sender::spawn(executor.clone(), lane, &runtime);
        }
    }

    /// Begins one more call with what waits. At most the target of calls are driven by callers,
    /// which may not be polled; the calls above that make progress by themselves.
    fn flush<E>(executor: &Arc<E>)
    where
        E: BatchExecutor<Op = Op, Reply = Reply>,
    {
        let batcher = executor.batcher();
        let mut state = locked(&batcher.state);
        if state.queue.is_empty() || state.in_flight >= batcher.max_in_flight {
            return;
        }
        state.in_flight += 1;
        drop(state);
        Self::hand_over(executor, Priority::Normal);
    }
}

/// A task that makes one call after the other until nothing waits.
struct Sender<E: BatchExecutor> {
    executor: Arc<E>,
    /// `Urgent` for a call of urgent operations only.
    lane: Priority,
    runtime: Id,
    has_ended: bool,
}

impl<E: BatchExecutor> Sender<E> {
    fn spawn(executor: Arc<E>, lane: Priority, runtime: &Handle) {
        let sender = Sender { executor, lane, runtime: runtime.id(), has_ended: false };
        runtime.spawn(sender.run());
    }

    async fn run(mut self) {
        while let Some(mut batch) = self.executor.batcher().next_batch(self.lane) {
            batch.iter_mut().for_each(|pending| pending.reply.set_sent());
            let call = async {
                self.executor.clone().execute(batch).await;
                Ok(())
            };
            // After a panic, what had no reply has an error.
            let _ = catch_panic("a batch", call).await;
            // Lets callers that have their reply join the next batch.
            tokio::task::yield_now().await;
        }
        self.has_ended = true;
    }
}

impl<E: BatchExecutor> Drop for Sender<E> {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        // Its runtime has ended: nobody could send what came from there.
        let lost = locked(&self.executor.batcher().state).remove_of(self.runtime);
        drop(lost);
        Batcher::hand_over(&self.executor, self.lane);
    }
}

/// A task that sends what waits when no call ends in time.
struct Flusher<E: BatchExecutor> {
    executor: Arc<E>,
}

impl<E: BatchExecutor> Flusher<E> {
    fn spawn(executor: &Arc<E>, runtime: &Handle) {
        runtime.spawn(Flusher { executor: executor.clone() }.run());
    }

    async fn run(self) {
        let mut batches_sent = None;
        loop {
            tokio::time::sleep(FLUSH_INTERVAL).await;
            let pending = locked(&self.executor.batcher().state).progress();
            if pending.is_none() {
                return;
            }
            if pending == batches_sent {
                Batcher::flush(&self.executor);
            }
            batches_sent = pending;
        }
    }
}

impl<E: BatchExecutor> Drop for Flusher<E> {
    fn drop(&mut self) {
        locked(&self.executor.batcher().state).end_flusher();
        // If its runtime has ended, it was dropped while operations wait.
        Batcher::flush(&self.executor);
    }
}

impl<E: BatchExecutor> Drop for Permit<E> {
    fn drop(&mut self) {
        Batcher::hand_over(&self.executor, Priority::Normal);
    }
}

impl<Op, Reply> fmt::Debug for Batcher<Op, Reply> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = locked(&self.state);
        let mut shown = f.debug_struct("Batcher");
        shown.field("queue", &state.queue).field("in_flight", &state.in_flight).finish_non_exhaustive()
    }
}

impl<E: BatchExecutor> fmt::Debug for Permit<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").finish_non_exhaustive()
    }
}
