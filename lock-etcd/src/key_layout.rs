//! [`KeyLayout`]: the keys of each lock.

use std::borrow::Cow;

use lock_core::kit::{decode_name, encode_name};
use lock_core::{Holder, LockName};

/// The keys of each lock.
///
/// The keys of a lock are `<prefix><name>/…`. A name is encoded with `%2F` for `/` and `%25` for
/// `%`. So it contains no `/`, no lock's keys are in another's range, and the name can be decoded.
#[derive(Clone, Debug)]
pub(crate) struct KeyLayout {
    prefix: String,
}

impl KeyLayout {
    pub(crate) fn new(prefix: impl Into<String>) -> KeyLayout {
        KeyLayout { prefix: prefix.into() }
    }

    /// The prefix for the path of a URL: it ends in a slash unless it is empty.
    pub(crate) fn prefix_of_path(path: &str) -> String {
        if path.is_empty() || path.ends_with('/') { path.to_owned() } else { format!("{path}/") }
    }

    /// The prefix of all keys.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The common prefix of this lock's keys.
    pub(crate) fn range(&self, name: &LockName) -> Vec<u8> {
        let mut range = Vec::with_capacity(self.prefix.len() + name.as_str().len() + 52);
        range.extend_from_slice(self.prefix.as_bytes());
        range.extend_from_slice(encode(name).as_bytes());
        range.push(b'/');
        range
    }

    /// The key that shows that this holder has withdrawn. It is in no lock's range, since no name
    /// is encoded with `%g`.
    pub(crate) fn tombstone(&self, lease_id: i64, holder: Holder) -> Vec<u8> {
        format!("{}{lease_id:x}-{holder}", self.tombstone_prefix()).into_bytes()
    }

    /// The prefix of all tombstones.
    pub(crate) fn tombstone_prefix(&self) -> String {
        format!("{}%gone/", self.prefix)
    }

    /// The key of the realm's mark. It is in no lock's range, since no name is encoded with `%r`.
    pub(crate) fn realm_key(&self) -> Vec<u8> {
        format!("{}%realm", self.prefix).into_bytes()
    }

    /// The name of the lock in whose queue this key may be, written by us or by another program
    /// with etcd's own recipe.
    pub(crate) fn name_of(&self, key: &[u8], lease_id: i64) -> Option<LockName> {
        let key = std::str::from_utf8(key).ok()?.strip_prefix(&self.prefix)?;
        let (name, entry) = key.rsplit_once('/')?;
        let id = entry.split_once('-').map_or(entry, |(id, _)| id);
        if name.contains('/') || lease_id == 0 || i64::from_str_radix(id, 16).is_err() {
            return None;
        }
        decode_name(name).filter(|decoded| encode(decoded) == name)
    }
}

fn encode(name: &LockName) -> Cow<'_, str> {
    encode_name(name, |_, c| c != '/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> LockName {
        LockName::new(text).unwrap()
    }

    #[test]
    fn names_are_written_so_that_none_is_anothers_prefix_and_read_back() {
        let names = KeyLayout::new("app/");
        let texts = ["a", "a/b", "a%2Fb", "a%", "%", "/", "a b", "é☃", "%gone", "..", "a/", "/a"];
        for (i, text) in texts.iter().enumerate() {
            let range = names.range(&name(text));
            let key = [&range[..], b"7b-1"].concat();
            assert_eq!(names.name_of(&key, 0x7b), Some(name(text)), "{text}");
            for other in &texts[i + 1..] {
                let other = names.range(&name(other));
                assert!(!range.starts_with(&other) && !other.starts_with(&range), "{text}");
            }
            assert!(!names.tombstone(1, Holder::from_u128(5)).starts_with(&range), "{text}");
            assert!(!names.realm_key().starts_with(&range), "{text}");
        }
    }

    #[test]
    fn a_name_without_slash_is_where_other_programs_look_for_it() {
        assert_eq!(KeyLayout::new("").range(&name("job")), b"job/");
        assert_eq!(KeyLayout::new("").name_of(b"job/694d7c", 0x694d7c), Some(name("job")));
    }

    #[test]
    fn keys_of_others_are_no_locks() {
        let names = KeyLayout::new("app/");
        for key in ["app/a/b/7b", "other/a/7b", "app/a", "app/a/zz", "app/%41/7b", "app/%gone/7b-1", "app/%realm"] {
            assert_eq!(names.name_of(key.as_bytes(), 0x7b), None, "{key}");
        }
        assert_eq!(names.name_of(b"app/a/7b", 0), None, "a key without a lease is no holder");
    }
}
