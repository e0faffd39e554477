//! [`encode_name`], [`decode_name`]: lock names in keys and paths.

use std::borrow::Cow;

use crate::words::LockName;

/// The name with `%` and two upper-case hexadecimal digits for each byte of a character that is not
/// plain. `%` never is, so that every name has its own encoding.
///
/// `is_plain` gets the character and its byte offset in the name.
pub fn encode_name(name: &LockName, is_plain: impl Fn(usize, char) -> bool) -> Cow<'_, str> {
    let name = name.as_str();
    let is_plain = |(at, c): (usize, char)| c != '%' && is_plain(at, c);
    let Some((first, _)) = name.char_indices().find(|&at| !is_plain(at)) else { return Cow::Borrowed(name) };
    let mut encoded = String::with_capacity(name.len() + 2);
    encoded.push_str(&name[..first]);
    for (at, c) in name.char_indices().skip_while(|&(at, _)| at < first) {
        if is_plain((at, c)) {
            encoded.push(c);
            continue;
        }
        for byte in c.encode_utf8(&mut [0; 4]).bytes() {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    Cow::Owned(encoded)
}

/// The name that this text is an encoding of, if it is one of a lock's name.
///
/// It need not be the encoding that [`encode_name`] gives: where other programs write beside the
/// store, encode the name again and compare.
pub fn decode_name(encoded: &str) -> Option<LockName> {
    let mut parts = encoded.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    LockName::new(String::from_utf8(bytes).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(text: &str) -> String {
        encode_name(&LockName::new(text).unwrap(), |at, c| c != '/' && (at > 0 || c != 'é')).into_owned()
    }

    #[test]
    fn only_characters_that_are_not_plain_are_encoded() {
        for (text, encoded) in [
            ("job 1", "job 1"),
            ("a/b", "a%2Fb"),
            ("100%", "100%25"),
            ("éé", "%C3%A9é"),
            ("%2F", "%252F"),
            ("☃/", "☃%2F"),
        ] {
            assert_eq!(encode(text), encoded);
            assert_eq!(decode_name(encoded).unwrap().as_str(), text);
        }
    }

    #[test]
    fn a_text_that_encodes_no_name_is_none() {
        for text in ["", "%", "%2", "%realm", "%zz", "%FF", "%00", "a%é", "%0A"] {
            assert_eq!(decode_name(text), None, "{text}");
        }
    }
}
