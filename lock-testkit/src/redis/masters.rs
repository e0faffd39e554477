//! [`masters`]: the masters of a cluster, as a member sees them.

use super::server::cli;

/// A master of a cluster, in the view of one member.
pub(super) struct Master {
    pub(super) port: u16,
    pub(super) slots: Vec<(u16, u16)>,
}

impl Master {
    pub(super) fn owns(&self, slot: u16) -> bool {
        self.slots.iter().any(|(first, last)| (*first..=*last).contains(&slot))
    }
}

/// The masters that are up, in the view of the member at this port.
#[track_caller]
pub(super) fn masters(port: u16) -> Vec<Master> {
    let nodes = cli(port, &["CLUSTER", "NODES"]);
    let master = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        words.get(2).filter(|flags| flags.contains("master") && !flags.contains("fail"))?;
        let port = words[1].split('@').next()?.rsplit(':').next()?.parse().ok()?;
        let range = |range: &&str| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some((first.parse().ok()?, last.parse().ok()?))
        };
        Some(Master { port, slots: words[8..].iter().filter_map(range).collect() })
    };
    nodes.lines().filter_map(master).collect()
}
