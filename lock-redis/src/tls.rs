//! Certificate files, checked when they are loaded.

use lock_core::{PemFile, Result};
use redis::{ClientTlsConfig, TlsCertificates};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::RedisConfig;

/// The certificates of a configuration; `None` without TLS.
///
/// Each file is checked: an empty file would be accepted in silence, and every server refused
/// later.
///
/// # Errors
///
/// Invalid configuration for a file that cannot be read or does not hold what it is named for.
pub(crate) fn load_certificates(config: &RedisConfig) -> Result<Option<TlsCertificates>> {
    let Some(tls) = &config.tls else { return Ok(None) };
    // The client uses the process-wide crypto provider. If the program has installed one, this
    // call fails and that one stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let files = tls.read()?;
    let root_cert = files.ca.as_ref().map(|ca| checked(ca, check_authorities)).transpose()?;
    let client_tls = match &files.identity {
        Some((certificate, key)) => Some(ClientTlsConfig {
            client_cert: checked(certificate, check_chain)?,
            client_key: checked(key, check_key)?,
        }),
        None => None,
    };
    Ok(Some(TlsCertificates { client_tls, root_cert }))
}

/// The contents of a file that passes `check`; a failed check names what the file lacks.
fn checked(file: &PemFile, check: fn(&[u8]) -> Result<(), &'static str>) -> Result<Vec<u8>> {
    match check(file.bytes()) {
        Ok(()) => Ok(file.bytes().to_vec()),
        Err(missing) => Err(file.refuse(format_args!("it holds no {missing}"))),
    }
}

fn check_authorities(bytes: &[u8]) -> Result<(), &'static str> {
    const EXPECTED: &str = "certificates of authorities in PEM";
    let mut authorities = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bytes) {
        authorities.add(certificate.map_err(|_| EXPECTED)?).map_err(|_| EXPECTED)?;
    }
    if authorities.is_empty() { Err(EXPECTED) } else { Ok(()) }
}

fn check_chain(bytes: &[u8]) -> Result<(), &'static str> {
    const EXPECTED: &str = "certificate in PEM";
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    chain.ok().filter(|chain| !chain.is_empty()).map(drop).ok_or(EXPECTED)
}

fn check_key(bytes: &[u8]) -> Result<(), &'static str> {
    PrivateKeyDer::from_pem_slice(bytes).map(drop).map_err(|_| "private key in PEM")
}
