//! [`with_own_keys`]: the keys of libpq, which other programs read from the same URL.

use lock_core::{Error, Result, StoreUrl};

/// The keys of libpq, each with ours of the same meaning.
const SYNONYMS: [(&str, &str); 3] = [("sslrootcert", "ca"), ("sslcert", "certificate"), ("sslkey", "key")];

/// The URL with our keys in place of libpq's. A `connect_timeout` without a unit is in seconds, as
/// in libpq.
///
/// # Errors
///
/// Invalid configuration for a setting that is given by both of its names.
pub(crate) fn with_own_keys(url: &StoreUrl) -> Result<StoreUrl> {
    let mut own = url.clone();
    for (libpq, key) in SYNONYMS {
        let Some(value) = url.value(libpq) else { continue };
        if url.value(key).is_some() {
            return Err(Error::invalid_config(format!("{key}= and {libpq}= are one setting: give one of them")));
        }
        own = own.without_key(libpq).with_key(key, value);
    }
    match url.value("connect_timeout") {
        Some(text) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
            Ok(own.with_key("connect_timeout", format!("{text}s")))
        }
        _ => Ok(own),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(text: &str) -> Result<StoreUrl> {
        with_own_keys(&text.parse().unwrap())
    }

    #[test]
    fn the_words_of_libpq_mean_ours() {
        let url = own("postgres://h/db?sslrootcert=/ca.pem&sslcert=/c.pem&sslkey=/k.pem&sslmode=verify-full").unwrap();
        let ours = own("postgres://h/db?ca=/ca.pem&certificate=/c.pem&key=/k.pem&sslmode=verify-full").unwrap();
        assert_eq!(url, ours);
        assert_eq!(url.value("sslrootcert"), None);
    }

    #[test]
    fn a_setting_by_both_of_its_names_is_refused() {
        for (libpq, key) in SYNONYMS {
            let error = own(&format!("postgres://h/db?{key}=/a.pem&{libpq}=/a.pem")).unwrap_err().to_string();
            assert!(error.contains(&format!("{key}= and {libpq}= are one setting")), "{error}");
        }
    }

    #[test]
    fn a_connect_timeout_without_a_unit_is_in_seconds() {
        for (text, read) in [("10", "10s"), ("500ms", "500ms"), ("2s", "2s"), ("-1", "-1")] {
            let url = own(&format!("postgres://h?connect_timeout={text}")).unwrap();
            assert_eq!(url.value("connect_timeout"), Some(read));
        }
    }
}
