//! [`dial`]: a new connection to the primary.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lock_core::{Effect, Error, ErrorKind, Holder, Result};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, Row as _};
use tokio::time::{Instant, timeout};

use crate::config::TlsMode;
use crate::connection::{Connection, PATH, SETTINGS, Way, set_local};
use crate::relay::Relay;
use crate::{PostgresConfig, error};

/// Settings of a connection that is ours: what was prepared for a table that was empty is right for a large one too,
/// and a server notices that we are gone.
const OWN_SETTINGS: [(&str, &str); 8] = [
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    // What it costs to go without is counted as so high a price that a statement would be compiled first.
    ("jit", "off"),
    ("tcp_keepalives_idle", "15"),
    ("tcp_user_timeout", "30000"),
];

/// By what a connection is known as ours: a setting that only this program gave.
const MARK: &str = "leasehold.connection";

const LOOK: &str = "select current_setting('leasehold.connection', true) as mark, pg_is_in_recovery() as standby, \
     current_setting('server_encoding') as encoding, current_setting('transaction_isolation') as isolation, \
     has_function_privilege('pg_control_system()', 'execute') as may_ask";

/// A host of the URL, with its port; `None`: as the environment says.
type Host<'a> = Option<&'a (String, Option<u16>)>;

/// Connects to the primary among the hosts; each has the connect time-out.
pub(crate) async fn dial(config: &PostgresConfig, way: Way) -> Result<Connection> {
    let mut refusal = None;
    let hosts: Vec<_> = config.hosts.iter().map(Some).chain(config.hosts.is_empty().then_some(None)).collect();
    for host in hosts {
        match dial_host(config, host, way).await {
            Ok(connection) => return Ok(connection),
            // A host that is up and refuses says more than one that is down.
            Err(error) if is_final(&error) => refusal = Some(error),
            Err(error) => drop(refusal.get_or_insert(error)),
        }
    }
    Err(refusal.unwrap_or_else(|| Error::refused(ErrorKind::InvalidConfig, "there is no host")))
}

/// Finds out what is in the way to the server.
pub(crate) async fn look_for_a_pooler(config: &PostgresConfig) -> Result<Way> {
    match dial(config, Way::Direct).await {
        Ok(_) => Ok(Way::Direct),
        Err(error) if error.kind() == ErrorKind::TooWeak => Ok(Way::Pooled),
        Err(error) => Err(error),
    }
}

/// Whether another server of the same name would say the same.
fn is_final(error: &Error) -> bool {
    !matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::TimedOut)
}

fn shown(config: &PostgresConfig, host: Host<'_>) -> String {
    let database = config.database.as_deref().unwrap_or_default();
    match host {
        Some((host, Some(port))) => format!("postgres {host}:{port}/{database}"),
        Some((host, None)) => format!("postgres {host}/{database}"),
        None => format!("postgres /{database}"),
    }
}

async fn dial_host(config: &PostgresConfig, host: Host<'_>, way: Way) -> Result<Connection> {
    let (limit, to) = (config.connect_timeout, shown(config, host));
    let until = Instant::now() + limit;
    let addresses = timeout(limit, addresses(&options(config, host, way, "")?)).await.unwrap_or_default();
    dial_addresses(config, host, way, &addresses, until)
        .await
        .map_err(|late| late.unwrap_or_else(|| error::timed_out(&to, "connecting", limit, Effect::None)))
}

/// The addresses of a host whose name has several.
async fn addresses(options: &PgConnectOptions) -> Vec<SocketAddr> {
    if options.get_socket().is_some() || options.get_host().starts_with('/') {
        return Vec::new();
    }
    // A name that cannot be resolved fails when it is connected to, and says so.
    let found = tokio::net::lookup_host((options.get_host(), options.get_port())).await;
    let found: Vec<_> = found.map(Iterator::collect).unwrap_or_default();
    if found.len() > 1 { found } else { Vec::new() }
}

/// Connects to the addresses in turn, each with its part of the time that is left, until one is the primary's. `Err(None)`:
/// none answered.
async fn dial_addresses(
    config: &PostgresConfig,
    host: Host<'_>,
    way: Way,
    addresses: &[SocketAddr],
    until: Instant,
) -> Result<Connection, Option<Error>> {
    let mut failed = None;
    for number in 0..addresses.len().max(1) {
        let left = until.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len().max(1) - number).unwrap_or(u32::MAX);
        // The client itself connects to the first address of a name.
        let address = addresses.get(number).copied().filter(|_| number > 0);
        match timeout(share, try_modes(config, host, way, address, share)).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) if is_final(&error) => return Err(Some(error)),
            Ok(Err(error)) => drop(failed.get_or_insert(error)),
            Err(_) => {}
        }
    }
    Err(failed)
}

/// Connects by what `sslmode` says; the client knows no `allow`, by which the server decides.
async fn try_modes(
    config: &PostgresConfig,
    host: Host<'_>,
    way: Way,
    address: Option<SocketAddr>,
    limit: Duration,
) -> Result<Connection> {
    let mark = Holder::fresh().to_string();
    let to = shown(config, host);
    let options = options(config, host, way, &mark)?;
    let allows = matches!(options.get_ssl_mode(), PgSslMode::Allow);
    let plain = if allows { options.clone().ssl_mode(PgSslMode::Disable) } else { options.clone() };
    let client = match connect(plain, address, limit).await {
        // It has no rule for a connection without TLS.
        Err(failed) if allows && error::code(&failed).as_deref() == Some("28000") => {
            connect(options.ssl_mode(PgSslMode::Require), address, limit).await
        }
        connected => connected,
    };
    match client {
        Ok((client, options)) => look(client, options, to, way, &mark).await,
        // What a pooler answers to settings that it does not pass on.
        Err(failed) if way == Way::Direct && error::code(&failed).as_deref() == Some("08P01") => Err(pooler(&to)),
        Err(failed) => Err(error::of_connecting(&to, &failed)),
    }
}

/// Connects to this address of the name, or to the name.
async fn connect(
    options: PgConnectOptions,
    address: Option<SocketAddr>,
    limit: Duration,
) -> Result<(PgConnection, PgConnectOptions), sqlx::Error> {
    let Some(address) = address else {
        return Ok((PgConnection::connect_with(&options).await?, options));
    };
    if matches!(options.get_ssl_mode(), PgSslMode::Disable) {
        let options = options.host(&address.ip().to_string()).port(address.port());
        return Ok((PgConnection::connect_with(&options).await?, options));
    }
    // The name stays, for TLS.
    let relay = Relay::to(address, options.get_port(), limit).await?;
    let through = options.clone().socket(relay.folder());
    let client = PgConnection::connect_with(&through).await?;
    Ok((client, options))
}

/// Looks at where a new connection leads.
async fn look(
    mut client: PgConnection,
    options: PgConnectOptions,
    to: String,
    way: Way,
    mark: &str,
) -> Result<Connection> {
    let failed = |failed: sqlx::Error| error::of_connecting(&to, &failed);
    let odd = |_: sqlx::Error| error::odd(&to, "looking at the server");
    let sql = format!("{}; {LOOK}", set_local(PATH));
    let row = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).fetch_one(&mut client).await.map_err(failed)?;
    let seen: Option<String> = row.try_get("mark").map_err(odd)?;
    let isolation: String = row.try_get("isolation").map_err(odd)?;
    if way == Way::Direct && (seen.as_deref() != Some(mark) || isolation != "read committed") {
        return Err(pooler(&to));
    }
    if row.try_get::<bool, _>("standby").map_err(odd)? {
        let text = format!("{to}: it is a standby, and may not write");
        return Err(Error::refused(ErrorKind::Unavailable, text));
    }
    let encoding: String = row.try_get("encoding").map_err(odd)?;
    if encoding != "UTF8" {
        let text = format!("{to}: the database has the encoding {encoding}, and names need UTF8");
        return Err(Error::refused(ErrorKind::InvalidConfig, text));
    }
    let system = match row.try_get::<bool, _>("may_ask").map_err(odd)? {
        false => String::new(),
        true => {
            let sql = "select system_identifier::pg_catalog.text from pg_catalog.pg_control_system()";
            let row = sqlx::raw_sql(sql).fetch_one(&mut client);
            row.await.and_then(|row| row.try_get(0)).map_err(failed)?
        }
    };
    Ok(Connection { client, system: Arc::from(system), to: Arc::from(to), options })
}

/// How a connection is made; `mark` is by what it is known as ours.
fn options(config: &PostgresConfig, host: Host<'_>, way: Way, mark: &str) -> Result<PgConnectOptions> {
    // Reads the environment, as every client does; the password file counts where neither it nor the URL has one.
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
    options = match &config.application_name {
        Some(name) => options.application_name(name),
        None => options.application_name(&format!("leasehold {}", config.table)),
    };
    if let Some(mode) = config.tls.mode {
        options = options.ssl_mode(match mode {
            TlsMode::Disable => PgSslMode::Disable,
            TlsMode::Allow => PgSslMode::Allow,
            TlsMode::Prefer => PgSslMode::Prefer,
            TlsMode::Require => PgSslMode::Require,
            TlsMode::VerifyCa => PgSslMode::VerifyCa,
            TlsMode::VerifyFull => PgSslMode::VerifyFull,
        });
    }
    if let Some(root) = &config.tls.root {
        options = options.ssl_root_cert(root);
    }
    if let (Some(certificate), Some(key)) = (&config.tls.certificate, &config.tls.key) {
        options = options.ssl_client_cert(certificate).ssl_client_key(key);
    }
    if matches!(options.get_ssl_mode(), PgSslMode::VerifyCa) {
        choose_tls()?;
    }
    match way {
        Way::Pooled => options = options.extra_float_digits(None).statement_cache_capacity(0),
        Way::Direct => {
            let statement = format!("{}ms", config.response_timeout.as_millis());
            options = options
                .options(SETTINGS)
                .options(OWN_SETTINGS)
                .options([("statement_timeout", statement.as_str()), (MARK, mark)]);
        }
    }
    Ok(options.disable_statement_logging())
}

/// In this mode alone the client takes the TLS of the process's choice, and panics where a program links two kinds and
/// chose none. What the program has chosen stays.
fn choose_tls() -> Result<()> {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Another may be faster: then that is the choice.
        drop(rustls::crypto::ring::default_provider().install_default());
    }
    match rustls::crypto::CryptoProvider::get_default() {
        Some(_) => Ok(()),
        None => {
            Err(Error::refused(ErrorKind::InvalidConfig, "sslmode=verify-ca needs a TLS provider, and there is none"))
        }
    }
}

/// That settings did not reach the server; and how the caller tells it from other refusals.
fn pooler(to: &str) -> Error {
    Error::refused(ErrorKind::TooWeak, format!("{to}: a pooler that shares connections is in the way"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::path::Path;
    use std::process::{Command, Stdio};

    use lock_testkit::PostgresServer;

    use super::*;

    /// A certificate for 127.0.0.1, and its key, which only servers may read.
    fn certify(folder: &Path) {
        let words = "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=here \
                     -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE";
        let mut openssl = Command::new("openssl");
        let made = openssl.args(words.split_whitespace()).current_dir(folder).stderr(Stdio::null()).status();
        assert!(made.is_ok_and(|status| status.success()), "openssl; ./test.sh installs what the tests need");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder, open).unwrap();
        PostgresServer::give(&folder.join("key.pem"));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_address_that_is_silent_takes_its_part_of_the_time_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        certify(folder.path());
        let file = |name: &str| folder.path().join(name).display().to_string();
        let (cert, key) = (file("cert.pem"), file("key.pem"));
        let server =
            PostgresServer::start(&["ssl=on", &format!("ssl_cert_file={cert}"), &format!("ssl_key_file={key}")]);
        // It takes connections, and answers nothing.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let silent = silent.local_addr().unwrap();
        let addresses = [silent, SocketAddr::from(([127, 0, 0, 1], server.port()))];
        let uses_tls =
            "select ssl from pg_stat_ssl join pg_stat_activity using (pid) where application_name like 'lease%'";
        for (mode, has_tls) in [("disable", "f"), ("require", "t"), ("verify-full", "t")] {
            let root = if has_tls == "t" { format!("&sslrootcert={cert}") } else { String::new() };
            let url = format!("postgres://postgres@{silent}/postgres?sslmode={mode}{root}");
            let config = PostgresConfig::from_url(&url.parse().unwrap()).unwrap();
            let until = Instant::now() + 2 * Duration::from_secs(5);
            let dialled = dial_addresses(&config, config.hosts.first(), Way::Direct, &addresses, until).await;
            let mut connection = dialled.map_err(|error| format!("{mode}: {error:?}")).unwrap();
            assert_eq!(server.psql(uses_tls), has_tls, "{mode}");
            connection.client.ping().await.unwrap();
            drop(connection);
            lock_testkit::until("its end", || server.psql(uses_tls).is_empty().then_some(()));
        }
        // All are silent: then that is the answer.
        let config =
            PostgresConfig::from_url(&format!("postgres://postgres@{silent}/postgres").parse().unwrap()).unwrap();
        let until = Instant::now() + Duration::from_millis(200);
        let none = dial_addresses(&config, config.hosts.first(), Way::Direct, &[silent, silent], until).await;
        assert!(none.is_err_and(|error| error.is_none()));
    }
}
