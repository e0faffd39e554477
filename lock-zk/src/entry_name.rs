//! [`EntryName`]: the name of one node in a lock's queue.

use lock_core::Holder;

/// The name of one node in a lock's queue, in the form that Curator gives it:
/// `_c_<GUID>-lock-<number>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EntryName {
    /// The whole name.
    pub(crate) node: String,
    /// The number that ZooKeeper appended: its count of the nodes that were ever made below the
    /// lock node. After the greatest number it goes on with the smallest.
    pub(crate) sequence: i32,
}

/// The word that Curator's mutex writes before the number.
const LOCK_PREFIX: &str = "lock-";

impl EntryName {
    /// Parses the name of a child; `None` if it is no entry of a queue.
    pub(crate) fn parse(node: String) -> Option<EntryName> {
        let (_, digits) = node.rsplit_once(LOCK_PREFIX)?;
        let sequence = digits.parse().ok()?;
        Some(EntryName { node, sequence })
    }

    /// The holder in the name. An entry of Curator has one too: its GUID is as random.
    pub(crate) fn holder(&self) -> Option<Holder> {
        holder_of(&self.node)
    }

    /// The name of an entry of this holder with the same number, and so with the same place in the
    /// queue.
    pub(crate) fn replacement(&self, holder: Holder) -> String {
        format!("{}{:010}", prefix(holder), self.sequence)
    }
}

/// The start of the name of every entry of this holder: `_c_<GUID>-lock-`. By it an entry is found
/// whose creation brought no answer.
pub(crate) fn prefix(holder: Holder) -> String {
    let digits = holder.to_string();
    let (a, b, c, d, e) = (&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]);
    format!("_c_{a}-{b}-{c}-{d}-{e}-{LOCK_PREFIX}")
}

/// The holder in the name of a node.
pub(crate) fn holder_of(node: &str) -> Option<Holder> {
    let guid = node.strip_prefix("_c_")?.get(..36)?;
    let digits: String = guid.chars().filter(|c| *c != '-').collect();
    let holder: Holder = digits.parse().ok()?;
    node.starts_with(&prefix(holder)).then_some(holder)
}
