//! [`Queue`]: the holder and the waiters of one lock, in their order.

use lock_core::Holder;

/// The holder and the waiters of one lock, as the names of its node's children, in the order of their coming: the first
/// holds the lock.
#[derive(Clone, Debug)]
pub(crate) struct Queue(Vec<EntryName>);

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EntryName {
    /// The name of its node.
    pub(crate) node: String,
    /// ZooKeeper's count of the nodes that were ever made in this folder. It goes on with the smallest number after the
    /// greatest.
    sequence: i32,
}

/// What Curator's mutex calls its nodes, before their numbers.
const LOCK_PREFIX: &str = "lock-";

impl Queue {
    /// The line that these children of a lock's node are.
    pub(crate) fn of(children: Vec<String>) -> Queue {
        let mut queue: Vec<_> = children.into_iter().filter_map(EntryName::of).collect();
        // They are far fewer than half of all numbers, so that the difference of two says which is the older, also where the
        // count has gone over its end. Curator compares the texts, and is out of order there.
        if let Some(any) = queue.first().map(|any| any.sequence) {
            queue.sort_unstable_by(|a, b| {
                let distance = |entry_name: &EntryName| entry_name.sequence.wrapping_sub(any);
                distance(a).cmp(&distance(b)).then_with(|| a.node.cmp(&b.node))
            });
        }
        Queue(queue)
    }

    /// Whether nobody else is there.
    pub(crate) fn is_single(&self) -> bool {
        self.0.len() == 1
    }

    pub(crate) fn first(&self) -> Option<&EntryName> {
        self.0.first()
    }

    /// Where this holder stands: how many are before it.
    pub(crate) fn position(&self, holder: Holder) -> Option<usize> {
        self.positions(holder).next()
    }

    /// Where nodes of this holder stand: more than one, if one of them is of a session that ends.
    pub(crate) fn positions(&self, holder: Holder) -> impl Iterator<Item = usize> {
        let prefix = prefix(holder);
        (0..self.0.len()).filter(move |position| self.0[*position].node.starts_with(&prefix))
    }

    /// Where this node stands.
    pub(crate) fn position_of(&self, node: &str) -> Option<usize> {
        self.0.iter().position(|entry_name| entry_name.node == node)
    }

    pub(crate) fn at(&self, position: usize) -> Option<&EntryName> {
        self.0.get(position)
    }
}

impl EntryName {
    pub(crate) fn of(node: String) -> Option<EntryName> {
        let (_, digits) = node.rsplit_once(LOCK_PREFIX)?;
        let sequence = digits.parse().ok()?;
        Some(EntryName { node, sequence })
    }

    /// The holder that the name is of: Curator's nodes begin with a random number as well.
    pub(crate) fn holder(&self) -> Option<Holder> {
        holder_of(&self.node)
    }

    /// A node of this holder in the very place of this one.
    pub(crate) fn replacement(&self, holder: Holder) -> String {
        format!("{}{:010}", prefix(holder), self.sequence)
    }
}

/// What the node of this holder begins with, in the form that Curator gives its nodes: `_c_<GUID>-lock-`. It is how a
/// node is found again whose creation brought no answer.
pub(crate) fn prefix(holder: Holder) -> String {
    let digits = holder.to_string();
    let (a, b, c, d, e) = (&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]);
    format!("_c_{a}-{b}-{c}-{d}-{e}-{LOCK_PREFIX}")
}

/// The holder that a node's name begins with.
pub(crate) fn holder_of(node: &str) -> Option<Holder> {
    let guid = node.strip_prefix("_c_")?.get(..36)?;
    let digits: String = guid.chars().filter(|c| *c != '-').collect();
    let holder: Holder = digits.parse().ok()?;
    node.starts_with(&prefix(holder)).then_some(holder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(children: &[&str]) -> Vec<String> {
        let queue = Queue::of(children.iter().map(|child| (*child).to_owned()).collect());
        queue.0.into_iter().map(|entry_name| entry_name.node).collect()
    }

    #[test]
    fn contenders_stand_in_the_order_of_their_numbers_whoever_made_them() {
        let [a, b, c] = ["_c_x-lock-0000000002", "lock-0000000010", "_c_a-lock-0000000003"];
        assert_eq!(queue(&[b, a, "other", "lock-x", c]), [a, c, b]);
        assert!(queue(&["other"]).is_empty());
    }

    #[test]
    fn the_count_may_go_over_its_end() {
        let [a, b, c] = ["_c_x-lock-2147483647", "_c_y-lock--2147483648", "_c_z-lock--2147483647"];
        for given in [[a, b, c], [c, b, a], [b, c, a]] {
            assert_eq!(queue(&given), [a, b, c]);
        }
        let [a, b] = ["_c_x-lock--000000001", "_c_y-lock-0000000000"];
        assert_eq!(queue(&[b, a]), [a, b]);
    }

    #[test]
    fn a_holder_is_found_by_its_number_and_read_back() {
        let holder = Holder::fresh();
        let node = format!("{}0000000007", prefix(holder));
        assert_eq!(holder_of(&node), Some(holder));
        let queue = Queue::of(vec![format!("{}0000000001", prefix(Holder::fresh())), node.clone()]);
        assert_eq!(queue.position(holder), Some(1));
        assert_eq!(queue.position(Holder::fresh()), None);
        let replaced = queue.at(1).unwrap().replacement(Holder::from_u128(7));
        assert_eq!(EntryName::of(replaced).unwrap().sequence, 7);
        assert_eq!(holder_of("_c_nonsense-lock-0000000007"), None);
    }
}
