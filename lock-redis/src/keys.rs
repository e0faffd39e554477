//! [`Keys`]: the layout of the keys.

use std::sync::OnceLock;

use lock_core::{Error, Holder, LockName, Result};

/// The layout of the keys. The key of a lock is the prefix and its name, unchanged.
///
/// An auxiliary key has a control character after the prefix, which no lock's name can have: so no
/// name collides with it, and one pattern grants or finds all of them. On a cluster it carries the
/// hash tag of the slot of the lock that it belongs to.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    prefix: String,
    cluster: bool,
}

/// Number of slots of a cluster.
pub(crate) const SLOT_COUNT: u16 = 16_384;
/// Separates the prefix from an auxiliary key.
const SEPARATOR: &str = "\u{1f}";

impl Keys {
    /// # Errors
    ///
    /// Invalid configuration for a prefix with a control character, or with an open hash tag on a
    /// cluster: a name could close it.
    pub(crate) fn new(prefix: &str, cluster: bool) -> Result<Keys> {
        let open = prefix.find('{').is_some_and(|at| tag(&prefix[at..]).is_none());
        if cluster && open {
            let text =
                format!("prefix={prefix} is not accepted: on a cluster a {{ needs its }} and a text between them");
            return Err(Error::invalid_config(text));
        }
        if prefix.chars().any(char::is_control) {
            let text = format!("prefix={prefix:?} is not accepted: it has a control character");
            return Err(Error::invalid_config(text));
        }
        Ok(Keys { prefix: prefix.to_owned(), cluster })
    }

    /// The key of a lock, which is also the channel on which its release is published.
    pub(crate) fn lock(&self, name: &LockName) -> String {
        [&self.prefix, name.as_str()].concat()
    }

    /// The name of the lock with this key; `None` for the key of no lock.
    pub(crate) fn name(&self, key: &[u8]) -> Option<LockName> {
        let name = std::str::from_utf8(key).ok()?.strip_prefix(&self.prefix)?;
        LockName::new(name).ok()
    }

    /// The pattern of all keys of this prefix.
    pub(crate) fn pattern(&self) -> String {
        let escape = |c: char| "*?[]\\^-".contains(c).then_some('\\').into_iter().chain([c]);
        self.prefix.chars().flat_map(escape).chain(['*']).collect()
    }

    /// The slot of a key on a cluster; 0 elsewhere.
    pub(crate) fn slot(&self, key: &str) -> u16 {
        if self.cluster { slot(key.as_bytes()) } else { 0 }
    }

    /// The slot of the key of a lock.
    pub(crate) fn lock_slot(&self, name: &LockName) -> u16 {
        if self.cluster { self.slot(&self.lock(name)) } else { 0 }
    }

    /// The fencing counter of the locks of a slot, in a realm.
    pub(crate) fn counter(&self, slot: u16, realm: &str) -> String {
        self.auxiliary(slot, "token:", realm)
    }

    /// The pattern of the counters of a realm, and the suffix of each.
    pub(crate) fn counters(&self, realm: &str) -> (String, String) {
        let ending = format!("token:{realm}");
        (format!("{}{ending}", self.pattern()), ending)
    }

    /// The tombstone of a withdrawn request, which refuses it if it arrives late.
    pub(crate) fn tombstone(&self, slot: u16, holder: Holder) -> String {
        self.auxiliary(slot, "withdrawn:", &String::from(holder))
    }

    /// The marker that is written before `WAIT`.
    pub(crate) fn ack_marker(&self, slot: u16) -> String {
        self.auxiliary(slot, "acknowledged", "")
    }

    /// The identity of the data.
    pub(crate) fn realm(&self) -> String {
        format!("{}{SEPARATOR}realm", self.prefix)
    }

    /// The record of a quorum, in the slot of the realm.
    pub(crate) fn quorum_record(&self) -> String {
        self.auxiliary(self.slot(&self.realm()), "quorum", "")
    }

    fn auxiliary(&self, slot: u16, what: &str, which: &str) -> String {
        match self.cluster {
            true => [&self.prefix, SEPARATOR, "{", tag_for_slot(slot), "}", what, which].concat(),
            false => [&self.prefix, SEPARATOR, what, which].concat(),
        }
    }
}

/// The hash tag, between the first `{` and the next `}`, which alone decides the slot; `None` if it
/// is empty or missing.
fn tag(key: &str) -> Option<&str> {
    let rest = &key[key.find('{')? + 1..];
    Some(&rest[..rest.find('}')?]).filter(|tag| !tag.is_empty())
}

fn slot(key: &[u8]) -> u16 {
    let whole = std::str::from_utf8(key).ok().and_then(tag).map_or(key, str::as_bytes);
    crc16(whole) % SLOT_COUNT
}

/// CRC-16/XMODEM, as the cluster specification names it.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        (0..8).fold(
            crc ^ (u16::from(*byte) << 8),
            |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 },
        )
    })
}

/// A short hash tag of a slot.
fn tag_for_slot(slot: u16) -> &'static str {
    static TAGS: OnceLock<Vec<String>> = OnceLock::new();
    let tags = TAGS.get_or_init(|| {
        let mut tags = vec![String::new(); usize::from(SLOT_COUNT)];
        let mut left = tags.len();
        for number in 0_u32.. {
            let text = format!("{number:x}");
            let tag = &mut tags[usize::from(crc16(text.as_bytes()) % SLOT_COUNT)];
            if tag.is_empty() {
                *tag = text;
                left -= 1;
            }
            if left == 0 {
                break;
            }
        }
        tags
    });
    &tags[usize::from(slot)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_cluster_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot(b"foo"), 12_182);
        assert_eq!(slot(b"{user1000}.following"), slot(b"user1000"));
        assert_eq!(slot(b"foo{{bar}}zap"), slot(b"{bar"));
        assert_eq!(slot(b"foo{}{bar}"), crc16(b"foo{}{bar}") % SLOT_COUNT);
    }

    #[test]
    fn what_belongs_to_a_lock_is_in_its_slot() {
        for prefix in ["lock:", "{app}:", ""] {
            let keys = Keys::new(prefix, true).unwrap();
            for name in ["job", "{a}b", "{}", "}{", "a{b", "\u{10ffff}"] {
                let slot = keys.slot(&keys.lock(&LockName::new(name).unwrap()));
                let auxiliary = [keys.counter(slot, "r"), keys.tombstone(slot, Holder::fresh()), keys.ack_marker(slot)];
                for key in auxiliary {
                    assert_eq!(keys.slot(&key), slot, "{key:?} beside {prefix}{name}");
                    assert_eq!(keys.name(key.as_bytes()), None, "{key:?}");
                }
            }
        }
        for prefix in ["lock:", "{app}:", "{", ""] {
            let keys = Keys::new(prefix, prefix != "{").unwrap();
            assert_eq!(keys.slot(&keys.quorum_record()), keys.slot(&keys.realm()), "beside the realm of {prefix}");
        }
        assert!((0..SLOT_COUNT).all(|slot| crc16(tag_for_slot(slot).as_bytes()) % SLOT_COUNT == slot));
    }

    #[test]
    fn a_prefix_that_a_name_could_close_is_refused_on_a_cluster() {
        for prefix in ["a{", "a{}", "{}:{x}"] {
            assert!(Keys::new(prefix, true).is_err(), "{prefix}");
            assert!(Keys::new(prefix, false).is_ok(), "{prefix}");
        }
        assert!(Keys::new("a\u{1f}", false).is_err());
    }

    #[test]
    fn a_pattern_means_its_prefix_and_nothing_else() {
        assert_eq!(Keys::new("a*[b]", false).unwrap().pattern(), "a\\*\\[b\\]*");
    }
}
