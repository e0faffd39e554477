//! [`Line`]: the holder and the waiters of one lock, in their order.

use lock_core::Holder;

/// The holder and the waiters of one lock, as the names of its node's children, in the order of their coming: the first
/// holds the lock.
#[derive(Clone, Debug)]
pub(crate) struct Line(Vec<Contender>);

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contender {
    /// The name of its node.
    pub(crate) node: String,
    /// ZooKeeper's count of the nodes that were ever made in this folder. It goes on with the smallest number after the
    /// greatest.
    sequence: i32,
}

/// What Curator's mutex calls its nodes, before their numbers.
const LOCK: &str = "lock-";

impl Line {
    /// The line that these children of a lock's node are.
    pub(crate) fn of(children: Vec<String>) -> Line {
        let mut line: Vec<_> = children.into_iter().filter_map(Contender::of).collect();
        // They are far fewer than half of all numbers, so that the difference of two says which is the older, also where the
        // count has gone over its end. Curator compares the texts, and is out of order there.
        if let Some(any) = line.first().map(|any| any.sequence) {
            line.sort_unstable_by(|a, b| {
                let after = |contender: &Contender| contender.sequence.wrapping_sub(any);
                after(a).cmp(&after(b)).then_with(|| a.node.cmp(&b.node))
            });
        }
        Line(line)
    }

    /// Whether nobody else is there.
    pub(crate) fn is_of_one(&self) -> bool {
        self.0.len() == 1
    }

    pub(crate) fn first(&self) -> Option<&Contender> {
        self.0.first()
    }

    /// Where this holder stands: how many are before it.
    pub(crate) fn position(&self, holder: Holder) -> Option<usize> {
        self.positions(holder).next()
    }

    /// Where nodes of this holder stand: more than one, if one of them is of a session that ends.
    pub(crate) fn positions(&self, holder: Holder) -> impl Iterator<Item = usize> {
        let begins = prefix(holder);
        (0..self.0.len()).filter(move |position| self.0[*position].node.starts_with(&begins))
    }

    /// Where this node stands.
    pub(crate) fn place_of(&self, node: &str) -> Option<usize> {
        self.0.iter().position(|contender| contender.node == node)
    }

    pub(crate) fn at(&self, position: usize) -> Option<&Contender> {
        self.0.get(position)
    }
}

impl Contender {
    pub(crate) fn of(node: String) -> Option<Contender> {
        let (_, digits) = node.rsplit_once(LOCK)?;
        let sequence = digits.parse().ok()?;
        Some(Contender { node, sequence })
    }

    /// The holder that the name is of: Curator's nodes begin with a random number as well.
    pub(crate) fn holder(&self) -> Option<Holder> {
        holder_of(&self.node)
    }

    /// A node of this holder in the very place of this one.
    pub(crate) fn replaced_by(&self, holder: Holder) -> String {
        format!("{}{:010}", prefix(holder), self.sequence)
    }
}

/// What the node of this holder begins with, in the form that Curator gives its nodes: `_c_<GUID>-lock-`. It is how a
/// node is found again whose creation brought no answer.
pub(crate) fn prefix(holder: Holder) -> String {
    let digits = holder.to_string();
    let (a, b, c, d, e) = (&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]);
    format!("_c_{a}-{b}-{c}-{d}-{e}-{LOCK}")
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

    fn line(children: &[&str]) -> Vec<String> {
        let line = Line::of(children.iter().map(|child| (*child).to_owned()).collect());
        line.0.into_iter().map(|contender| contender.node).collect()
    }

    #[test]
    fn contenders_stand_in_the_order_of_their_numbers_whoever_made_them() {
        let [a, b, c] = ["_c_x-lock-0000000002", "lock-0000000010", "_c_a-lock-0000000003"];
        assert_eq!(line(&[b, a, "other", "lock-x", c]), [a, c, b]);
        assert!(line(&["other"]).is_empty());
    }

    #[test]
    fn the_count_may_go_over_its_end() {
        let [a, b, c] = ["_c_x-lock-2147483647", "_c_y-lock--2147483648", "_c_z-lock--2147483647"];
        for given in [[a, b, c], [c, b, a], [b, c, a]] {
            assert_eq!(line(&given), [a, b, c]);
        }
        let [a, b] = ["_c_x-lock--000000001", "_c_y-lock-0000000000"];
        assert_eq!(line(&[b, a]), [a, b]);
    }

    #[test]
    fn a_holder_is_found_by_its_number_and_read_back() {
        let holder = Holder::fresh();
        let node = format!("{}0000000007", prefix(holder));
        assert_eq!(holder_of(&node), Some(holder));
        let line = Line::of(vec![format!("{}0000000001", prefix(Holder::fresh())), node.clone()]);
        assert_eq!(line.position(holder), Some(1));
        assert_eq!(line.position(Holder::fresh()), None);
        let replaced = line.at(1).unwrap().replaced_by(Holder::from_u128(7));
        assert_eq!(Contender::of(replaced).unwrap().sequence, 7);
        assert_eq!(holder_of("_c_nonsense-lock-0000000007"), None);
    }
}
