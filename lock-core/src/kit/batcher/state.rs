//! [`State`]: what waits, and the calls in flight.

use tokio::runtime::{Handle, Id};

use super::op_queue::{OpQueue, Priority, Taken};
use super::pending_op::PendingOp;

/// What waits, and the calls in flight. If operations wait, then as many calls as the target, or
/// more, are in flight.
pub(super) struct State<Op, Reply> {
    pub(super) queue: OpQueue<PendingOp<Op, Reply>>,
    /// Calls in flight, besides one of urgent operations only.
    pub(super) in_flight: usize,
    has_urgent_call: bool,
    /// Number of batches sent, by which the flusher notices progress.
    batches_sent: u64,
    /// A task runs that sends what waits when no call ends in time.
    has_flusher: bool,
}

impl<Op, Reply> State<Op, Reply> {
    pub(super) fn new() -> State<Op, Reply> {
        State { queue: OpQueue::new(), in_flight: 0, has_urgent_call: false, batches_sent: 0, has_flusher: false }
    }

    /// Begins a call for an operation that has come, if it need not wait; returns which operations
    /// the call is for. Urgent ones have one call above the limit, for themselves.
    pub(super) fn begin_call(&mut self, priority: Priority, target_in_flight: usize) -> Option<Priority> {
        if self.in_flight < target_in_flight {
            self.in_flight += 1;
            return Some(Priority::Normal);
        }
        let begins = priority == Priority::Urgent && !std::mem::replace(&mut self.has_urgent_call, true);
        begins.then_some(Priority::Urgent)
    }

    pub(super) fn end_call(&mut self, lane: Priority) {
        match lane {
            Priority::Normal => self.in_flight -= 1,
            Priority::Urgent => self.has_urgent_call = false,
        }
    }

    /// The runtime that can send what waits next; if nothing waits, the call has ended.
    pub(super) fn next_runtime(&mut self, lane: Priority) -> Option<Handle> {
        let first = match lane {
            Priority::Normal => self.queue.first(),
            Priority::Urgent => self.queue.first_urgent(),
        };
        let runtime = first.map(|pending| pending.runtime.clone());
        if runtime.is_none() {
            self.end_call(lane);
        }
        runtime
    }

    /// The next batch of a call; if it is empty, the call has ended.
    pub(super) fn next_batch(&mut self, lane: Priority, max_batch: usize) -> Taken<PendingOp<Op, Reply>> {
        let is_wanted = |pending: &PendingOp<Op, Reply>| pending.reply.is_wanted();
        let taken = match lane {
            Priority::Normal => self.queue.take_batch(max_batch, is_wanted),
            Priority::Urgent => self.queue.take_urgent(max_batch, is_wanted),
        };
        match taken.batch.is_empty() {
            true => self.end_call(lane),
            false => self.batches_sent += 1,
        }
        taken
    }

    /// Removes what came from a runtime that has ended.
    pub(super) fn remove_of(&mut self, runtime: Id) -> Vec<PendingOp<Op, Reply>> {
        self.queue.remove_all(|pending| pending.runtime.id() == runtime)
    }

    /// Number of batches sent; `None` if nothing waits.
    pub(super) fn progress(&self) -> Option<u64> {
        (!self.queue.is_empty()).then_some(self.batches_sent)
    }

    /// Notes that a flusher runs; returns false if one does already.
    pub(super) fn begin_flusher(&mut self) -> bool {
        !std::mem::replace(&mut self.has_flusher, true)
    }

    pub(super) fn end_flusher(&mut self) {
        self.has_flusher = false;
    }
}
