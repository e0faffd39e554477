//! [`LockName`].

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::{Error, ErrorKind, Result};

/// The name of a lock: 1 to 512 bytes of UTF-8 without control characters.
///
/// Names are compared byte for byte: `é` as one character and `e` with a combining accent are two
/// names, and so are `a` and `A`. A store gives a name no meaning: `a/b`, `..`, `%` and quotes are
/// ordinary characters, and every store keeps names apart by an injective encoding.
///
/// Cloning is cheap: clones share the text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LockName(Arc<str>);

impl LockName {
    /// Maximum length of a name in bytes.
    pub const MAX_BYTES: usize = 512;

    /// Makes a lock's name of `name`, if it is valid.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidName`] if `name` is empty, longer than [`LockName::MAX_BYTES`] or
    /// contains a control character (NUL and line breaks among them).
    pub fn new(name: impl AsRef<str>) -> Result<LockName> {
        let name = name.as_ref();
        let wrong = if name.is_empty() {
            "it is empty".to_owned()
        } else if name.len() > Self::MAX_BYTES {
            format!("it has {} bytes", name.len())
        } else if let Some((at, control)) = name.char_indices().find(|(_, c)| c.is_control()) {
            format!("it has the control character {} at byte {at}", control.escape_debug())
        } else {
            return Ok(LockName(name.into()));
        };
        let mut shown: String = name.chars().take(40).flat_map(char::escape_debug).collect();
        if name.chars().nth(40).is_some() {
            shown.push('…');
        }
        Err(Error::refused(
            ErrorKind::InvalidName,
            format!(
                "the lock name \"{shown}\" is not accepted: {wrong}; a name has 1 to {} bytes of UTF-8 without control characters",
                Self::MAX_BYTES
            ),
        ))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl AsRef<str> for LockName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for LockName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for LockName {
    type Error = Error;

    fn try_from(name: String) -> Result<LockName> {
        LockName::new(name)
    }
}

impl std::str::FromStr for LockName {
    type Err = Error;

    fn from_str(name: &str) -> Result<LockName> {
        LockName::new(name)
    }
}

impl From<LockName> for String {
    fn from(name: LockName) -> String {
        name.0.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_one_byte_and_of_the_longest_length_is_accepted() {
        for name in ["a".to_owned(), "x".repeat(LockName::MAX_BYTES), "a/../b%'\"☃".to_owned()] {
            assert_eq!(LockName::new(&name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn a_refusal_names_the_value_and_what_would_be_accepted() {
        for (name, says) in
            [("", "it is empty"), (&"x".repeat(513), "513 bytes"), ("a\0b", r"\0 at byte 1"), ("line\n", r"\n")]
        {
            let refusal = LockName::new(name).unwrap_err();
            assert_eq!(refusal.kind(), ErrorKind::InvalidName);
            let text = refusal.to_string();
            assert!(text.contains(says) && text.contains("1 to 512 bytes"), "{text}");
            assert!(text.len() < 300 && !text.contains('\n') && !text.contains('\0'), "{text}");
        }
    }

    #[test]
    fn a_name_from_configuration_is_checked_too() {
        assert!(serde_json::from_str::<LockName>("\"ok\"").is_ok());
        assert!(serde_json::from_str::<LockName>("\"\"").is_err());
    }
}
