//! [`connect_options`]: how a connection to one host is made.

use lock_core::{Error, Result};
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::config::{PostgresConfig, TlsMode};
use crate::connection::{ConnectionKind, SETTINGS};

/// A host of the URL, with its port; `None`: as the environment says.
pub(crate) type Host<'a> = Option<&'a (String, Option<u16>)>;

/// The settings of a direct connection. A plan that was prepared while a table was empty must be
/// right for a large one too, and the server must notice when this process is gone.
const DIRECT_SETTINGS: [(&str, &str); 8] = [
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    // A disabled plan type costs so much on paper that the server would compile the statement
    // first.
    ("jit", "off"),
    ("tcp_keepalives_idle", "15"),
    ("tcp_user_timeout", "30000"),
];

/// The setting by which a connection is known as direct: only this program gives it.
const MARK_SETTING: &str = "leasehold.connection";

/// The options of a connection to this host; a direct one carries `mark`.
pub(crate) fn connect_options(
    config: &PostgresConfig,
    host: Host<'_>,
    kind: ConnectionKind,
    mark: &str,
) -> Result<PgConnectOptions> {
    let options = with_tls(with_login(config, host), config);
    if matches!(options.get_ssl_mode(), PgSslMode::VerifyCa) {
        ensure_tls_provider()?;
    }
    let options = match kind {
        ConnectionKind::Pooled => options.extra_float_digits(None).statement_cache_capacity(0),
        ConnectionKind::Direct => {
            let statement_timeout = format!("{}ms", config.response_timeout.as_millis());
            options
                .options(SETTINGS)
                .options(DIRECT_SETTINGS)
                .options([("statement_timeout", statement_timeout.as_str()), (MARK_SETTING, mark)])
        }
    };
    Ok(options.disable_statement_logging())
}

fn with_login(config: &PostgresConfig, host: Host<'_>) -> PgConnectOptions {
    // Reads the environment, as every client does; the password file counts where neither it nor
    // the URL has one.
    let mut options = PgConnectOptions::new();
    if let Some((host, port)) = host {
        options = if host.starts_with('/') { options.socket(host) } else { options.host(host) };
        if let Some(port) = port {
            options = options.port(*port);
        }
    }
    if let Some(user) = &config.user {
        options = options.username(user);
    }
    if let Some(password) = &config.password {
        options = options.password(password);
    }
    if let Some(database) = &config.database {
        options = options.database(database);
    }
    match &config.application_name {
        Some(name) => options.application_name(name),
        None => options.application_name(&format!("leasehold {}", config.table)),
    }
}

fn with_tls(mut options: PgConnectOptions, config: &PostgresConfig) -> PgConnectOptions {
    let tls = &config.tls;
    if let Some(mode) = config.tls_mode {
        options = options.ssl_mode(match mode {
            TlsMode::Disable => PgSslMode::Disable,
            TlsMode::Allow => PgSslMode::Allow,
            TlsMode::Prefer => PgSslMode::Prefer,
            TlsMode::Require => PgSslMode::Require,
            TlsMode::VerifyCa => PgSslMode::VerifyCa,
            TlsMode::VerifyFull => PgSslMode::VerifyFull,
        });
    }
    if let Some(ca) = &tls.ca {
        options = options.ssl_root_cert(ca);
    }
    if let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) {
        options = options.ssl_client_cert(certificate).ssl_client_key(key);
    }
    options
}

/// Makes sure that the process has a TLS provider. With `verify-ca` alone the client takes the
/// provider that the process has chosen, and panics where a program links two and chose none. A
/// choice of the program is kept.
fn ensure_tls_provider() -> Result<()> {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Another thread may choose first: then that is the choice.
        drop(rustls::crypto::ring::default_provider().install_default());
    }
    match rustls::crypto::CryptoProvider::get_default() {
        Some(_) => Ok(()),
        None => Err(Error::invalid_config("sslmode=verify-ca needs a TLS provider, and there is none")),
    }
}
