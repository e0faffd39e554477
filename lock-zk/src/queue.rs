//! [`Queue`]: the holder and the waiters of one lock, in their order.

use lock_core::Holder;
use zookeeper_client::{Client, Error as ZkError};

use crate::entry_name::{EntryName, prefix};
use crate::error::{CallError, classify};

/// The entries of one lock, in the order of their creation: the first is the holder, the others
/// wait.
#[derive(Clone, Debug)]
pub(crate) struct Queue(Vec<EntryName>);

impl Queue {
    /// The queue that these children of a lock node form.
    pub(crate) fn of(children: Vec<String>) -> Queue {
        let mut entries: Vec<_> = children.into_iter().filter_map(EntryName::parse).collect();
        // There are far fewer entries than half of all numbers, so that the difference of two
        // numbers tells which is older, also where the count has overflowed. Curator compares the
        // texts, and loses the order there.
        if let Some(base) = entries.first().map(|entry| entry.sequence) {
            entries.sort_unstable_by(|a, b| {
                let distance = |entry: &EntryName| entry.sequence.wrapping_sub(base);
                distance(a).cmp(&distance(b)).then_with(|| a.node.cmp(&b.node))
            });
        }
        Queue(entries)
    }

    /// Returns `true` if there is exactly one entry.
    pub(crate) fn is_single(&self) -> bool {
        self.0.len() == 1
    }

    pub(crate) fn first(&self) -> Option<&EntryName> {
        self.0.first()
    }

    /// The number of entries before the first one of this holder.
    pub(crate) fn position(&self, holder: Holder) -> Option<usize> {
        self.positions(holder).next()
    }

    /// The positions of this holder's entries. There are several if one is of a session that ends.
    pub(crate) fn positions(&self, holder: Holder) -> impl Iterator<Item = usize> {
        let prefix = prefix(holder);
        (0..self.0.len()).filter(move |position| self.0[*position].node.starts_with(&prefix))
    }

    /// The number of entries before this node.
    pub(crate) fn position_of(&self, node: &str) -> Option<usize> {
        self.0.iter().position(|entry| entry.node == node)
    }

    pub(crate) fn at(&self, position: usize) -> Option<&EntryName> {
        self.0.get(position)
    }
}

/// Reads the queue of the lock with this node; it is empty if there is no such node. As
/// [`read_existing_queue`] otherwise.
pub(crate) async fn read_queue(client: &Client, lock_path: &str, sync: bool) -> Result<Queue, CallError> {
    Ok(read_existing_queue(client, lock_path, sync).await?.unwrap_or_else(|| Queue::of(Vec::new())))
}

/// Reads the queue of the lock with this node; `None` if there is no such node.
///
/// With `sync` the server is first brought up to what the quorum knows. A session that has just
/// written needs none: its server knows its own write and all that came before it.
pub(crate) async fn read_existing_queue(
    client: &Client,
    lock_path: &str,
    sync: bool,
) -> Result<Option<Queue>, CallError> {
    // Both requests are sent in this order before either is answered.
    let sync = sync.then(|| client.sync(lock_path));
    let list = client.list_children(lock_path);
    let synced = match sync {
        Some(sync) => sync.await,
        None => Ok(()),
    };
    let to_call_error = |failure| classify("looking at a lock", failure, false);
    synced.map_err(to_call_error)?;
    match list.await {
        Ok(children) => Ok(Some(Queue::of(children))),
        Err(ZkError::NoNode) => Ok(None),
        Err(failure) => Err(to_call_error(failure)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry_name::holder_of;

    fn sorted(children: &[&str]) -> Vec<String> {
        let queue = Queue::of(children.iter().map(|child| (*child).to_owned()).collect());
        queue.0.into_iter().map(|entry| entry.node).collect()
    }

    #[test]
    fn contenders_stand_in_the_order_of_their_numbers_whoever_made_them() {
        let [a, b, c] = ["_c_x-lock-0000000002", "lock-0000000010", "_c_a-lock-0000000003"];
        assert_eq!(sorted(&[b, a, "other", "lock-x", c]), [a, c, b]);
        assert!(sorted(&["other"]).is_empty());
    }

    #[test]
    fn the_count_may_go_over_its_end() {
        let [a, b, c] = ["_c_x-lock-2147483647", "_c_y-lock--2147483648", "_c_z-lock--2147483647"];
        for given in [[a, b, c], [c, b, a], [b, c, a]] {
            assert_eq!(sorted(&given), [a, b, c]);
        }
        let [a, b] = ["_c_x-lock--000000001", "_c_y-lock-0000000000"];
        assert_eq!(sorted(&[b, a]), [a, b]);
    }

    #[test]
    fn a_holder_is_found_by_its_number_and_read_back() {
        let holder = Holder::fresh();
        let node = format!("{}0000000007", prefix(holder));
        assert_eq!(holder_of(&node), Some(holder));
        let queue = Queue::of(vec![format!("{}0000000001", prefix(Holder::fresh())), node.clone()]);
        assert_eq!(queue.position(holder), Some(1));
        assert_eq!(queue.position(Holder::fresh()), None);
        let replacement = queue.at(1).unwrap().replacement(Holder::from_u128(7));
        assert_eq!(EntryName::parse(replacement).unwrap().sequence, 7);
        assert_eq!(holder_of("_c_nonsense-lock-0000000007"), None);
    }
}
