//! [`Tls`]: the files of a TLS connection.

use std::fmt;
use std::path::{Path, PathBuf};

use super::url::StoreUrl;
use crate::words::{Error, Result};

/// The files by which this program trusts a server, and a server this program; all in PEM. In a
/// URL: the keys `ca`, `certificate` and `key`.
///
/// They are read when the store is opened. Where `ca` is `None`, each store says whom it trusts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tls {
    /// The file with the certificates of the trusted authorities.
    pub ca: Option<PathBuf>,
    /// The file with this program's certificate, if the server asks for one.
    pub certificate: Option<PathBuf>,
    /// The file with the key of that certificate.
    pub key: Option<PathBuf>,
}

/// The contents of the files of [`Tls`].
#[derive(Debug)]
#[non_exhaustive]
pub struct TlsFiles {
    /// The certificates of the trusted authorities.
    pub ca: Option<PemFile>,
    /// This program's certificate, and the key of it.
    pub identity: Option<(PemFile, PemFile)>,
}

/// One file of [`Tls`] with its contents. `Debug` shows its name only.
pub struct PemFile {
    setting: &'static str,
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Tls {
    /// The keys of a URL that name the files.
    pub const KEYS: [&'static str; 3] = ["ca", "certificate", "key"];

    /// TLS with the authorities in this file.
    pub fn with_ca(ca: impl Into<PathBuf>) -> Tls {
        Tls { ca: Some(ca.into()), ..Tls::default() }
    }

    /// With this program's certificate and its key.
    #[must_use]
    pub fn identity(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Tls {
        (self.certificate, self.key) = (Some(certificate.into()), Some(key.into()));
        self
    }

    /// The files that a URL names. For authors of stores.
    ///
    /// # Errors
    ///
    /// As [`check`](Tls::check).
    pub fn from_url(url: &StoreUrl) -> Result<Tls> {
        let [ca, certificate, key] = Self::KEYS.map(|key| url.value(key).map(PathBuf::from));
        let tls = Tls { ca, certificate, key };
        tls.check()?;
        Ok(tls)
    }

    /// Checks that certificate and key come together. For authors of stores.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) if one of the two is missing.
    pub fn check(&self) -> Result<()> {
        let (given, path, missing) = match (&self.certificate, &self.key) {
            (Some(path), None) => ("certificate", path, "key"),
            (None, Some(path)) => ("key", path, "certificate"),
            _ => return Ok(()),
        };
        let text = format!("{given}={} is not accepted without {missing}: give both or neither", path.display());
        Err(Error::invalid_config(text))
    }

    /// Reads the files. For authors of stores.
    ///
    /// # Errors
    ///
    /// As [`check`](Tls::check), and [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for a file
    /// that cannot be read; the text names the key and the file.
    pub fn read(&self) -> Result<TlsFiles> {
        self.check()?;
        let read =
            |setting, path: &Option<PathBuf>| path.as_deref().map(|path| PemFile::read(setting, path)).transpose();
        let (certificate, key) = (read("certificate", &self.certificate)?, read("key", &self.key)?);
        Ok(TlsFiles { ca: read("ca", &self.ca)?, identity: certificate.zip(key) })
    }
}

impl PemFile {
    fn read(setting: &'static str, path: &Path) -> Result<PemFile> {
        let mut file = PemFile { setting, path: path.to_owned(), bytes: Vec::new() };
        match std::fs::read(path) {
            Ok(bytes) => file.bytes = bytes,
            Err(error) => return Err(file.refuse(format_args!("it cannot be read: {error}")).with_source(error)),
        }
        Ok(file)
    }

    /// The contents.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The contents as text.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for a file that is no UTF-8, and so no
    /// PEM.
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.bytes).map_err(|_| self.refuse("it is no text, and so no PEM"))
    }

    /// The error of a file that does not hold what it should: "`key`=`path` is not accepted:
    /// `why`".
    pub fn refuse(&self, why: impl fmt::Display) -> Error {
        Error::invalid_config(format!("{}={} is not accepted: {why}", self.setting, self.path.display()))
    }
}

impl fmt::Debug for PemFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PemFile").field("path", &self.path).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<Tls> {
        Tls::from_url(&url.parse().expect("a URL"))
    }

    #[test]
    fn the_files_of_a_url_are_those_of_the_builder() {
        let tls = read("etcds://h?ca=/ca.pem&certificate=/c.pem&key=/k.pem").unwrap();
        assert_eq!(tls, Tls::with_ca("/ca.pem").identity("/c.pem", "/k.pem"));
        assert_eq!(read("etcds://h").unwrap(), Tls::default());
    }

    #[test]
    fn half_an_identity_is_refused_with_the_key_that_is_missing() {
        for (url, says) in [
            ("x://h?certificate=c.pem", "certificate=c.pem is not accepted without key: give both or neither"),
            ("x://h?key=k.pem", "key=k.pem is not accepted without certificate: give both or neither"),
        ] {
            assert_eq!(read(url).unwrap_err().to_string(), says);
        }
        let half = Tls { key: Some("k.pem".into()), ..Tls::default() };
        assert!(half.read().unwrap_err().to_string().contains("give both or neither"));
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named_with_its_key_and_shows_no_contents() {
        let missing = Tls::with_ca("/nowhere/ca.pem").read().unwrap_err().to_string();
        assert!(missing.starts_with("ca=/nowhere/ca.pem is not accepted: it cannot be read: "), "{missing}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        std::fs::write(&path, b"S3CRET\xff").unwrap();
        let files = Tls::with_ca(&path).identity(&path, &path).read().unwrap();
        let (_, key) = files.identity.as_ref().unwrap();
        let error = key.text().unwrap_err();
        assert_eq!(error.to_string(), format!("key={} is not accepted: it is no text, and so no PEM", path.display()));
        assert_eq!(key.bytes(), b"S3CRET\xff");
        assert!(!format!("{files:?} {error:?}").contains("S3CRET"));
    }
}
