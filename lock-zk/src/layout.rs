//! [`Layout`]: the paths of all nodes.

use std::borrow::Cow;

use lock_core::kit::{decode_name, encode_name};
use lock_core::{Error, LockName, Result};

/// The paths of all nodes.
///
/// A lock is the node `<base>/<name>`; its holder and waiters are that node's children. In a name,
/// each byte of a character that ZooKeeper does not accept in the name of a node is encoded as `%`
/// and two digits; so is `/`, so that no lock is inside another one's node, and `%` itself. Names
/// without those characters are the same for other programs.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// Empty for the root.
    base: String,
}

impl Layout {
    /// The layout below this path, which must be canonical: one place has one path.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](lock_core::ErrorKind::InvalidConfig), with the reason.
    pub(crate) fn new(path: &str) -> Result<Layout> {
        let base = path.strip_suffix('/').unwrap_or(path);
        if base.is_empty() {
            return Ok(Layout { base: String::new() });
        }
        let absolute = base.strip_prefix('/').ok_or_else(|| invalid_path(path, "it does not begin with a slash"))?;
        for part in absolute.split('/') {
            if part.is_empty() || part == "." || part == ".." {
                return Err(invalid_path(path, "one place has one path: no empty part, no . and no .."));
            }
            if !part.chars().all(is_accepted) {
                return Err(invalid_path(path, "ZooKeeper does not take all of its characters"));
            }
        }
        if absolute.split('/').next() == Some(RESERVED_NODE) {
            return Err(invalid_path(path, "/zookeeper is the server's own"));
        }
        Ok(Layout { base: base.to_owned() })
    }

    /// The path that all nodes are below.
    pub(crate) fn base(&self) -> &str {
        if self.base.is_empty() { "/" } else { &self.base }
    }

    /// The path of this lock's node.
    pub(crate) fn lock_path(&self, name: &LockName) -> String {
        format!("{}/{}", self.base, self.encode(name))
    }

    /// The path of the node that holds the realm. No lock's node has this name.
    pub(crate) fn realm_path(&self) -> String {
        format!("{}/%realm", self.base)
    }

    /// The path below which each session has a node of its own. No lock's node has this name.
    pub(crate) fn sessions_path(&self) -> String {
        format!("{}/%sessions", self.base)
    }

    /// The lock whose node has this name below the base; `None` for other nodes.
    pub(crate) fn name_of(&self, node: &str) -> Option<LockName> {
        // One lock has one node: other encodings of its name are none.
        decode_name(node).filter(|name| self.encode(name) == node)
    }

    /// The name of a lock's node.
    fn encode<'a>(&self, name: &'a LockName) -> Cow<'a, str> {
        let is_dots = [".", ".."].contains(&name.as_str());
        let is_reserved = self.base.is_empty() && name.as_str() == RESERVED_NODE;
        encode_name(name, |at, c| is_accepted(c) && c != '/' && !is_dots && !(is_reserved && at == 0))
    }

    /// Splits the path of a lock node's child; `None` for other nodes.
    pub(crate) fn split<'a>(&self, path: &'a str) -> Option<(&'a str, &'a str)> {
        let (lock_path, child) = path.rsplit_once('/')?;
        let node = lock_path.strip_prefix(&self.base)?.strip_prefix('/')?;
        self.name_of(node).map(|_| (lock_path, child))
    }
}

/// The node below the root that the server keeps for itself.
const RESERVED_NODE: &str = "zookeeper";

/// Returns `true` if ZooKeeper accepts this character in the name of a node. It checks the halves
/// of surrogate pairs, and accepts none.
fn is_accepted(c: char) -> bool {
    !matches!(u32::from(c), 0..=0x1f | 0x7f..=0x9f | 0xd800..=0xf8ff | 0xfff0..)
}

fn invalid_path(path: &str, why: &str) -> Error {
    Error::invalid_config(format!("the path {path:?} is not accepted: {why}"))
}

#[cfg(test)]
mod tests {
    use lock_core::ErrorKind;

    use super::*;

    fn name(text: &str) -> LockName {
        LockName::new(text).unwrap()
    }

    #[test]
    fn names_read_back_and_none_is_inside_another() {
        let texts = [
            "a",
            "a/b",
            "a%2Fb",
            "%",
            "/",
            "/a",
            "a/",
            ".",
            "..",
            "...",
            "é☃",
            "😀",
            "\u{fffd}",
            "zookeeper",
            "%realm",
        ];
        for layout in [Layout::new("").unwrap(), Layout::new("/app").unwrap()] {
            let mut paths = std::collections::HashSet::new();
            for text in texts {
                let path = layout.lock_path(&name(text));
                let node = path.rsplit_once('/').unwrap();
                assert_eq!(node.0, layout.base, "{text} is right below the base");
                assert_eq!(layout.name_of(node.1), Some(name(text)), "{text}");
                assert!(node.1.chars().all(is_accepted) && node.1 != "zookeeper" || !layout.base.is_empty(), "{text}");
                assert!(path != layout.realm_path() && path != layout.sessions_path());
                assert!(paths.insert(path), "{text}");
            }
        }
    }

    #[test]
    fn a_plain_name_is_where_other_programs_look_for_it() {
        assert_eq!(Layout::new("/app/").unwrap().lock_path(&name("job 1")), "/app/job 1");
        assert_eq!(Layout::new("/").unwrap().lock_path(&name("job")), "/job");
    }

    #[test]
    fn nodes_that_are_no_locks_are_told_apart() {
        let layout = Layout::new("/app").unwrap();
        for node in ["%realm", "%sessions", "%2f", "%41", "%", "%2", "%+1", "%FF"] {
            assert_eq!(layout.name_of(node), None, "{node}");
        }
        assert_eq!(layout.split("/app/a%2Fb/x"), Some(("/app/a%2Fb", "x")));
        for path in ["/other/a/x", "/app/x", "/app/a/b/x", "/app/%sessions/x"] {
            assert_eq!(layout.split(path), None, "{path}");
        }
    }

    #[test]
    fn one_place_has_one_path() {
        assert_eq!(Layout::new("/a/b").unwrap().base(), Layout::new("/a/b/").unwrap().base());
        for path in ["//", "/a//b", "a", "/a/./b", "/a/../b", "/..", "/zookeeper", "/zookeeper/x", "/a\u{1}", "/😀"] {
            assert_eq!(Layout::new(path).unwrap_err().kind(), ErrorKind::InvalidConfig, "{path}");
        }
    }
}
