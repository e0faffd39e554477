//! [`Holder`] and [`HolderInfo`].

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::random;

/// Identity of a holder: 128 random bits, fresh for every acquisition.
///
/// It is never a host name or a process id: two acquisitions by one process are two holders, so
/// that a late reply to the first can never affect the lease of the second. It is shown as 32
/// hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Holder(u128);

impl Holder {
    /// A new holder from the operating system's random source, different from every holder before.
    ///
    /// # Panics
    ///
    /// If the operating system has no random source, in which case no secure program can run on it.
    pub fn fresh() -> Holder {
        Holder(random::bits128())
    }

    /// The holder with this number, as read from a store.
    pub const fn from_u128(number: u128) -> Holder {
        Holder(number)
    }

    /// The holder as a number, for a store to write.
    pub const fn as_u128(self) -> u128 {
        self.0
    }

    fn digits(self) -> [u8; 32] {
        // By hand, since every acquisition formats it several times, and `{:032x}` is slower
        // because it is general.
        let mut digits = [0; 32];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(self.0.to_be_bytes()) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        digits
    }
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(std::str::from_utf8(&self.digits()).unwrap_or_default())
    }
}

impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Holder {
    type Err = ParseHolderError;

    fn from_str(text: &str) -> Result<Holder, ParseHolderError> {
        let digits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let number = u128::from_str_radix(text, 16).ok().filter(|_| digits);
        number.map(Holder).ok_or_else(|| ParseHolderError(text.to_owned()))
    }
}

impl TryFrom<String> for Holder {
    type Error = ParseHolderError;

    fn try_from(text: String) -> Result<Holder, ParseHolderError> {
        text.parse()
    }
}

impl From<Holder> for String {
    fn from(holder: Holder) -> String {
        String::from_utf8(holder.digits().to_vec()).unwrap_or_default()
    }
}

/// Error for a text that is not a holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseHolderError(String);

impl fmt::Display for ParseHolderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no holder: a holder is 32 hexadecimal digits", self.0)
    }
}

impl std::error::Error for ParseHolderError {}

/// Description of a holder for people: host, process and a free text.
///
/// It is stored with the lease and decides nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HolderInfo {
    /// The host's name.
    pub host: String,
    /// The process id on that host.
    pub pid: u32,
    /// Free text, empty unless the holder gave one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
}

impl HolderInfo {
    /// Maximum length of the free text in bytes. A longer text is cut at a character boundary.
    pub const MAX_TEXT_BYTES: usize = 256;

    /// This process, with a free text.
    pub fn of_this_process(text: &str) -> HolderInfo {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        HolderInfo::new(host, std::process::id(), text)
    }

    /// A process on a host, with a free text; control characters become spaces.
    pub fn new(host: impl Into<String>, pid: u32, text: &str) -> HolderInfo {
        let mut cut = text.len().min(Self::MAX_TEXT_BYTES);
        while !text.is_char_boundary(cut) {
            cut -= 1;
        }
        let text = text[..cut].chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        HolderInfo { host: host.into(), pid, text }
    }
}

impl fmt::Display for HolderInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pid {}", self.host, self.pid)?;
        if !self.text.is_empty() {
            write!(f, " ({})", self.text)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_holders_differ_and_read_back_from_their_text() {
        let (a, b) = (Holder::fresh(), Holder::fresh());
        assert_ne!(a, b);
        assert_eq!(a.to_string().len(), 32);
        assert_eq!(a.to_string().parse::<Holder>().unwrap(), a);
    }

    #[test]
    fn a_text_that_is_no_holder_is_refused() {
        for text in ["", "12", "+0000000000000000000000000000001", "zz345678901234567890123456789012"] {
            assert!(text.parse::<Holder>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn holder_text_is_cut_at_a_character_and_stays_on_one_line() {
        let info = HolderInfo::new("h", 1, &format!("a\nb{}", "é".repeat(200)));
        assert!(info.text.starts_with("a bé") && info.text.len() <= HolderInfo::MAX_TEXT_BYTES);
    }
}
