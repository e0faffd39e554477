//! [`KeyForm`]: the mapping of lock names to the keys of advisory locks.

use lock_core::{Error, LockName, Result};
use sha1::{Digest as _, Sha1};
use sqlx::postgres::PgAdvisoryLockKey;

/// The mapping of lock names to the keys of advisory locks: that of the code that is to be
/// excluded. In a URL: `mode=advisory&key_form=FORM`.
///
/// Keys are shorter than names: two names can have one key, and then exclude each other though they
/// need not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyForm {
    /// `raw`: a name that is a number is that `bigint`, and one that is two numbers with a comma
    /// that pair of `int`s, as they stand in `pg_advisory_lock(42)` and `pg_advisory_lock(4, 2)`;
    /// another name is refused.
    #[default]
    Raw,
    /// `sqlx`: as `PgAdvisoryLock::new` of the crate sqlx.
    Sqlx,
    /// `with_advisory_lock`: as the Ruby gem of this name, for the lock name without a prefix of
    /// the environment.
    WithAdvisoryLock,
    /// `madelson`: as `PostgresAdvisoryLockKey` of DistributedLock for .NET, with names hashed
    /// where they are no key.
    Madelson,
}

/// The key of an advisory lock; the two forms never meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum AdvisoryKey {
    One(i64),
    Two(i32, i32),
}

impl KeyForm {
    pub(crate) fn parse(text: &str) -> Result<KeyForm> {
        match text {
            "raw" => Ok(KeyForm::Raw),
            "sqlx" => Ok(KeyForm::Sqlx),
            "with_advisory_lock" => Ok(KeyForm::WithAdvisoryLock),
            "madelson" => Ok(KeyForm::Madelson),
            other => Err(Error::invalid_config(format!(
                "key_form={other} is not accepted: it takes raw, sqlx, with_advisory_lock or madelson"
            ))),
        }
    }

    pub(crate) fn key(self, name: &LockName) -> Result<AdvisoryKey> {
        let text = name.as_str();
        match self {
            KeyForm::Raw => raw(text).ok_or_else(|| {
                Error::invalid_config(format!(
                    "\"{name}\" is no key of an advisory lock: with key_form=raw a name is a bigint, or two ints with a comma"
                ))
            }),
            KeyForm::Sqlx => Ok(sqlx_key(text)),
            KeyForm::WithAdvisoryLock => Ok(with_advisory_lock(text)),
            KeyForm::Madelson => Ok(madelson(text)),
        }
    }
}

impl AdvisoryKey {
    /// The two parts as `pg_locks` shows them, and which form it is.
    pub(crate) fn parts(self) -> (u32, u32, i16) {
        match self {
            AdvisoryKey::One(key) => ((key as u64 >> 32) as u32, key as u32, 1),
            AdvisoryKey::Two(a, b) => (a as u32, b as u32, 2),
        }
    }
}

fn raw(text: &str) -> Option<AdvisoryKey> {
    // Only one spelling of each key: "+1", "01" and " 1" would be other names with the same key.
    let canonical = |part: &str, value: String| (part == value).then_some(());
    match text.split_once(',') {
        None => {
            let key: i64 = text.parse().ok()?;
            canonical(text, key.to_string())?;
            Some(AdvisoryKey::One(key))
        }
        Some((a, b)) => {
            let (first, second): (i32, i32) = (a.parse().ok()?, b.parse().ok()?);
            canonical(a, first.to_string())?;
            canonical(b, second.to_string())?;
            Some(AdvisoryKey::Two(first, second))
        }
    }
}

/// The first eight bytes of the HKDF-SHA256 of the name, with a context string of the crate.
fn sqlx_key(text: &str) -> AdvisoryKey {
    match sqlx::postgres::PgAdvisoryLock::new(text).key() {
        PgAdvisoryLockKey::IntPair(first, second) => AdvisoryKey::Two(*first, *second),
        key => AdvisoryKey::One(key.as_bigint().expect("BUG: a key that is no pair is a bigint")),
    }
}

/// The lowest 31 bits of the CRC-32 of the name, and the number in the environment's prefix, which
/// is 0 without one.
fn with_advisory_lock(text: &str) -> AdvisoryKey {
    let hash = crc32fast::hash(text.as_bytes()) & 0x7fff_ffff;
    AdvisoryKey::Two(i32::from_ne_bytes(hash.to_ne_bytes()), 0)
}

/// Up to nine ASCII characters are the key itself; so are 16 hexadecimal digits, or two times eight
/// with a comma. For any other name the key is the first eight bytes of its SHA-1, as a
/// little-endian number.
fn madelson(text: &str) -> AdvisoryKey {
    if text.len() <= 9 && text.is_ascii() {
        // Seven bits each, then a 0, then 1s to the end: this distinguishes texts of different
        // lengths.
        let packed = text.bytes().fold(0_u64, |packed, byte| packed << 7 | u64::from(byte)) << 1;
        let padded = (text.len()..9).fold(packed, |packed, _| packed << 7 | 0x7f);
        return halves(padded);
    }
    let hex = |part: &str| {
        let digits = part.len() == 8 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
        if digits { u32::from_str_radix(part, 16).ok() } else { None }
    };
    match (text.get(..8), text.len()) {
        (Some(first), 16) if let (Some(high), Some(low)) = (hex(first), text.get(8..).and_then(hex)) => {
            AdvisoryKey::One((u64::from(high) << 32 | u64::from(low)).cast_signed())
        }
        (Some(first), 17) if let (Some(high), Some(low)) = (hex(first), text[8..].strip_prefix(',').and_then(hex)) => {
            AdvisoryKey::Two(high.cast_signed(), low.cast_signed())
        }
        _ => {
            let hash: [u8; 20] = Sha1::digest(text.as_bytes()).into();
            let (first, _) = hash.split_first_chunk().expect("BUG: a SHA-1 has more than eight bytes");
            AdvisoryKey::One(i64::from_le_bytes(*first))
        }
    }
}

fn halves(key: u64) -> AdvisoryKey {
    AdvisoryKey::Two(((key >> 32) as u32).cast_signed(), (key as u32).cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(form: KeyForm, name: &str) -> AdvisoryKey {
        form.key(&LockName::new(name).unwrap()).unwrap()
    }

    #[test]
    fn a_raw_key_is_the_number_itself_in_one_spelling() {
        assert_eq!(key(KeyForm::Raw, "42"), AdvisoryKey::One(42));
        assert_eq!(key(KeyForm::Raw, "-9223372036854775808"), AdvisoryKey::One(i64::MIN));
        assert_eq!(key(KeyForm::Raw, "4,-2"), AdvisoryKey::Two(4, -2));
        for name in ["042", "+42", " 42", "4, 2", "nightly", "9223372036854775808", "4,2,1", "2147483648,0"] {
            let error = KeyForm::Raw.key(&LockName::new(name).unwrap()).unwrap_err();
            assert!(error.to_string().contains("bigint"), "{error}");
        }
    }

    #[test]
    fn derived_keys_are_those_of_the_other_clients() {
        // From the documentation of sqlx's `PgAdvisoryLock::new`.
        assert_eq!(
            key(KeyForm::Sqlx, "my first Postgres advisory lock!"),
            AdvisoryKey::One(-5_560_419_505_042_474_287)
        );
        // CRC-32 of "123456789" is cbf43926.
        assert_eq!(key(KeyForm::WithAdvisoryLock, "123456789"), AdvisoryKey::Two(0x4bf4_3926, 0));
        // One character, 0x61: 1100001 0 and 56 ones.
        assert_eq!(key(KeyForm::Madelson, "a"), halves(0xc2ff_ffff_ffff_ffff));
        assert_eq!(key(KeyForm::Madelson, "00000001FFFFFFFF"), AdvisoryKey::One(0x1_ffff_ffff));
        assert_eq!(key(KeyForm::Madelson, "00000001,ffffffff"), AdvisoryKey::Two(1, -1));
        // SHA-1 of this text is 2fd4e1c67a2d28fc...
        let text = "The quick brown fox jumps over the lazy dog";
        assert_eq!(
            key(KeyForm::Madelson, text),
            AdvisoryKey::One(i64::from_le_bytes(*b"\x2f\xd4\xe1\xc6\x7a\x2d\x28\xfc"))
        );
    }

    #[test]
    fn a_key_is_found_again_in_the_columns_of_pg_locks() {
        assert_eq!(AdvisoryKey::One(-1).parts(), (u32::MAX, u32::MAX, 1));
        assert_eq!(AdvisoryKey::One(5).parts(), (0, 5, 1));
        assert_eq!(AdvisoryKey::Two(1, -1).parts(), (1, u32::MAX, 2));
    }
}
