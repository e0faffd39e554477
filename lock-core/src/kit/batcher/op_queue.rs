//! [`OpQueue`]: operations that wait, and how they are cut into batches.

use std::collections::VecDeque;
use std::fmt;

/// Order of the operations in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Priority {
    /// First come, first served.
    Normal,
    /// Before all normal operations: a renewal, so that no crowd of requests costs a held lock.
    Urgent,
}

/// Operations that wait: urgent ones first, and otherwise first come, first served.
pub struct OpQueue<T> {
    urgent: VecDeque<T>,
    normal: VecDeque<T>,
}

/// Operations that were taken from a queue.
#[derive(Debug)]
pub struct Taken<T> {
    /// The batch.
    pub batch: Vec<T>,
    /// Operations whose callers have gone, for the caller to drop: not while it holds a lock.
    pub gone: Vec<T>,
}

impl<T> OpQueue<T> {
    /// An empty queue.
    pub const fn new() -> OpQueue<T> {
        OpQueue { urgent: VecDeque::new(), normal: VecDeque::new() }
    }

    /// True if nothing waits.
    pub fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.normal.is_empty()
    }

    /// Number of operations that wait.
    pub fn len(&self) -> usize {
        self.urgent.len() + self.normal.len()
    }

    /// Adds an operation.
    pub fn push(&mut self, op: T, priority: Priority) {
        match priority {
            Priority::Urgent => self.urgent.push_back(op),
            Priority::Normal => self.normal.push_back(op),
        }
    }

    /// Takes the next batch: at most `max` operations. Those that are not wanted any more count for
    /// nothing, so that the batch is empty only if nothing is left.
    pub fn take_batch(&mut self, max: usize, is_wanted: impl Fn(&T) -> bool) -> Taken<T> {
        let mut taken = self.take_urgent(max, &is_wanted);
        take(&mut self.normal, max, is_wanted, &mut taken);
        taken
    }

    /// As [`take_batch`](OpQueue::take_batch), of urgent operations alone.
    pub fn take_urgent(&mut self, max: usize, is_wanted: impl Fn(&T) -> bool) -> Taken<T> {
        let mut taken = Taken { batch: Vec::new(), gone: Vec::new() };
        take(&mut self.urgent, max, is_wanted, &mut taken);
        taken
    }

    /// The operation that is taken next.
    pub(super) fn first(&self) -> Option<&T> {
        self.first_urgent().or(self.normal.front())
    }

    /// The urgent operation that is taken next.
    pub(super) fn first_urgent(&self) -> Option<&T> {
        self.urgent.front()
    }

    /// Removes all operations of which `which` is true.
    pub(super) fn remove_all(&mut self, which: impl Fn(&T) -> bool) -> Vec<T> {
        let mut removed = Vec::new();
        for lane in [&mut self.urgent, &mut self.normal] {
            let (out, left): (VecDeque<T>, VecDeque<T>) = std::mem::take(lane).into_iter().partition(&which);
            *lane = left;
            removed.extend(out);
        }
        removed
    }
}

fn take<T>(lane: &mut VecDeque<T>, max: usize, is_wanted: impl Fn(&T) -> bool, taken: &mut Taken<T>) {
    taken.batch.reserve_exact(lane.len().min(max - taken.batch.len()));
    while taken.batch.len() < max
        && let Some(op) = lane.pop_front()
    {
        if is_wanted(&op) { taken.batch.push(op) } else { taken.gone.push(op) }
    }
}

impl<T> Default for OpQueue<T> {
    fn default() -> OpQueue<T> {
        OpQueue::new()
    }
}

impl<T> fmt::Debug for OpQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpQueue").field("urgent", &self.urgent.len()).field("normal", &self.normal.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(urgent: &[u32], normal: &[u32]) -> OpQueue<u32> {
        let mut queue = OpQueue::new();
        // The order in which they come does not matter.
        normal.iter().for_each(|op| queue.push(*op, Priority::Normal));
        urgent.iter().for_each(|op| queue.push(*op, Priority::Urgent));
        queue
    }

    #[test]
    fn urgent_operations_are_taken_first_and_each_kind_in_its_order() {
        let mut queue = queue(&[1, 2], &[3, 4, 5]);
        assert_eq!(queue.take_batch(3, |_| true).batch, [1, 2, 3]);
        assert_eq!(queue.take_batch(3, |_| true).batch, [4, 5]);
        assert!(queue.is_empty() && queue.take_batch(3, |_| true).batch.is_empty());
    }

    #[test]
    fn operations_that_nobody_wants_take_no_place_in_a_batch() {
        let mut queue = queue(&[1, 2], &[3, 4, 5, 6, 8]);
        let taken = queue.take_batch(2, |op| op % 2 == 0);
        assert_eq!((taken.batch, taken.gone), (vec![2, 4], vec![1, 3]));
        assert_eq!(queue.take_batch(2, |op| *op > 6).batch, [8]);
    }

    #[test]
    fn urgent_operations_are_taken_alone_where_normal_ones_must_wait() {
        let mut queue = queue(&[1, 2], &[3]);
        assert_eq!(queue.take_urgent(usize::MAX, |_| true).batch, [1, 2]);
        assert!(queue.take_urgent(usize::MAX, |_| true).batch.is_empty());
        assert_eq!((queue.first_urgent(), queue.first(), queue.len()), (None, Some(&3), 1));
    }

    #[test]
    fn removed_operations_leave_the_order_of_the_others() {
        let mut queue = queue(&[1, 2], &[3, 4, 5]);
        assert_eq!(queue.remove_all(|op| [2, 4].contains(op)), [2, 4]);
        assert_eq!(queue.take_batch(9, |_| true).batch, [1, 3, 5]);
    }
}
