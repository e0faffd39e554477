//! [`connect`]: opens a connection to the primary.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lock_core::{Effect, Error, ErrorKind, Result, random};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{Connection as _, PgConnection, Row as _};
use tokio::time::{Instant, timeout};

use crate::config::PostgresConfig;
use crate::connect_options::{Host, connect_options};
use crate::connection::{Connection, ConnectionKind, SEARCH_PATH, set_local};
use crate::error;
use crate::relay::Relay;

const SERVER_CHECK: &str = "select current_setting('leasehold.connection', true) as mark, pg_is_in_recovery() as standby, \
     current_setting('server_encoding') as encoding, current_setting('transaction_isolation') as isolation, \
     has_function_privilege('pg_control_system()', 'execute') as may_ask";

/// Connects to the primary among the hosts. Each host has the whole connect time-out.
pub(crate) async fn connect(config: &PostgresConfig, kind: ConnectionKind) -> Result<Connection> {
    let mut refusal = None;
    let hosts: Vec<_> = config.hosts.iter().map(Some).chain(config.hosts.is_empty().then_some(None)).collect();
    for host in hosts {
        match connect_to_host(config, host, kind).await {
            Ok(connection) => return Ok(connection),
            // The refusal of a host that is up explains more than the silence of one that is down.
            Err(error) if is_final(&error) => refusal = Some(error),
            Err(error) => drop(refusal.get_or_insert(error)),
        }
    }
    Err(refusal.unwrap_or_else(|| Error::invalid_config("there is no host")))
}

/// Detects whether a pooler that shares connections is in the way.
pub(crate) async fn detect_pooler(config: &PostgresConfig) -> Result<ConnectionKind> {
    match connect(config, ConnectionKind::Direct).await {
        Ok(_) => Ok(ConnectionKind::Direct),
        Err(error) if error.kind() == ErrorKind::TooWeak => Ok(ConnectionKind::Pooled),
        Err(error) => Err(error),
    }
}

/// True if another address of the same name would refuse for the same reason.
fn is_final(error: &Error) -> bool {
    !matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::TimedOut)
}

fn location(config: &PostgresConfig, host: Host<'_>) -> String {
    let database = config.database.as_deref().unwrap_or_default();
    match host {
        Some((host, Some(port))) => format!("postgres {host}:{port}/{database}"),
        Some((host, None)) => format!("postgres {host}/{database}"),
        None => format!("postgres /{database}"),
    }
}

async fn connect_to_host(config: &PostgresConfig, host: Host<'_>, kind: ConnectionKind) -> Result<Connection> {
    let (limit, server) = (config.connect_timeout, location(config, host));
    let deadline = Instant::now() + limit;
    let addresses = timeout(limit, resolve(&connect_options(config, host, kind, "")?)).await.unwrap_or_default();
    connect_to_addresses(config, host, kind, &addresses, deadline).await.map_err(|late| {
        late.unwrap_or_else(|| Error::no_answer(format_args!("{server}: connecting"), limit, Effect::None))
    })
}

/// The addresses of a host whose name has several; else none.
async fn resolve(options: &PgConnectOptions) -> Vec<SocketAddr> {
    if options.get_socket().is_some() || options.get_host().starts_with('/') {
        return Vec::new();
    }
    // For a name that cannot be resolved, the client reports the error when it connects.
    let found = tokio::net::lookup_host((options.get_host(), options.get_port())).await;
    let found: Vec<_> = found.map(Iterator::collect).unwrap_or_default();
    if found.len() > 1 { found } else { Vec::new() }
}

/// Connects to the addresses in turn, each with an equal share of the remaining time, until one is
/// the primary's. `Err(None)`: none answered.
async fn connect_to_addresses(
    config: &PostgresConfig,
    host: Host<'_>,
    kind: ConnectionKind,
    addresses: &[SocketAddr],
    deadline: Instant,
) -> Result<Connection, Option<Error>> {
    let mut failure = None;
    for number in 0..addresses.len().max(1) {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let share = remaining / u32::try_from(addresses.len().max(1) - number).unwrap_or(u32::MAX);
        // The client itself connects to the first address of a name.
        let address = addresses.get(number).copied().filter(|_| number > 0);
        match timeout(share, connect_by_ssl_mode(config, host, kind, address, share)).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) if is_final(&error) => return Err(Some(error)),
            Ok(Err(error)) => drop(failure.get_or_insert(error)),
            Err(_) => {}
        }
    }
    Err(failure)
}

/// Connects as `sslmode` demands. With `allow` the server decides, which the client does not
/// support: here it is a plain connection first, and a second one with TLS if the server insists.
async fn connect_by_ssl_mode(
    config: &PostgresConfig,
    host: Host<'_>,
    kind: ConnectionKind,
    address: Option<SocketAddr>,
    limit: Duration,
) -> Result<Connection> {
    let mark = random::hex128();
    let server = location(config, host);
    let options = connect_options(config, host, kind, &mark)?;
    let allows = matches!(options.get_ssl_mode(), PgSslMode::Allow);
    let plain = if allows { options.clone().ssl_mode(PgSslMode::Disable) } else { options.clone() };
    let client = match open_client(plain, address, limit).await {
        // The server has no rule that admits a connection without TLS.
        Err(failure) if allows && error::sqlstate(&failure).as_deref() == Some("28000") => {
            open_client(options.ssl_mode(PgSslMode::Require), address, limit).await
        }
        connected => connected,
    };
    match client {
        Ok((client, options)) => check_server(client, options, server, kind, &mark).await,
        // A pooler refuses settings that it does not pass on.
        Err(failure) if kind == ConnectionKind::Direct && error::sqlstate(&failure).as_deref() == Some("08P01") => {
            Err(pooler_error(&server))
        }
        Err(failure) => Err(error::classify_connect(&server, &failure)),
    }
}

/// Connects to this address of the name; without one, to the name.
async fn open_client(
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
    // The client still gets the name, which TLS checks.
    let relay = Relay::connect(address, options.get_port(), limit).await?;
    let through = options.clone().socket(relay.folder());
    let client = PgConnection::connect_with(&through).await?;
    Ok((client, options))
}

/// Checks that a new connection leads to the primary, in the way that was expected.
async fn check_server(
    mut client: PgConnection,
    options: PgConnectOptions,
    server: String,
    kind: ConnectionKind,
    mark: &str,
) -> Result<Connection> {
    let failure = |failure: sqlx::Error| error::classify_connect(&server, &failure);
    let unexpected = |_: sqlx::Error| error::unexpected_reply(&server, "looking at the server");
    let sql = format!("{}; {SERVER_CHECK}", set_local(SEARCH_PATH));
    let row = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).fetch_one(&mut client).await.map_err(failure)?;
    let seen: Option<String> = row.try_get("mark").map_err(unexpected)?;
    let isolation: String = row.try_get("isolation").map_err(unexpected)?;
    if kind == ConnectionKind::Direct && (seen.as_deref() != Some(mark) || isolation != "read committed") {
        return Err(pooler_error(&server));
    }
    if row.try_get::<bool, _>("standby").map_err(unexpected)? {
        let text = format!("{server}: it is a standby, and may not write");
        return Err(Error::refused(ErrorKind::Unavailable, text));
    }
    let encoding: String = row.try_get("encoding").map_err(unexpected)?;
    if encoding != "UTF8" {
        let text = format!("{server}: the database has the encoding {encoding}, and names need UTF8");
        return Err(Error::invalid_config(text));
    }
    let system = match row.try_get::<bool, _>("may_ask").map_err(unexpected)? {
        false => String::new(),
        true => {
            let sql = "select system_identifier::pg_catalog.text from pg_catalog.pg_control_system()";
            let row = sqlx::raw_sql(sql).fetch_one(&mut client);
            row.await.and_then(|row| row.try_get(0)).map_err(failure)?
        }
    };
    Ok(Connection { client, system: Arc::from(system), server: Arc::from(server), options })
}

/// The error if settings did not reach the server. [`detect_pooler`] knows it by its kind.
fn pooler_error(server: &str) -> Error {
    Error::refused(ErrorKind::TooWeak, format!("{server}: a pooler that shares connections is in the way"))
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
        PostgresServer::give_to_server_user(&folder.join("key.pem"));
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
            let deadline = Instant::now() + 2 * Duration::from_secs(5);
            let connected =
                connect_to_addresses(&config, config.hosts.first(), ConnectionKind::Direct, &addresses, deadline).await;
            let mut connection = connected.map_err(|error| format!("{mode}: {error:?}")).unwrap();
            assert_eq!(server.psql(uses_tls), has_tls, "{mode}");
            connection.client.ping().await.unwrap();
            drop(connection);
            lock_testkit::until("its end", || server.psql(uses_tls).is_empty().then_some(()));
        }
        // All are silent: then that is the answer.
        let config =
            PostgresConfig::from_url(&format!("postgres://postgres@{silent}/postgres").parse().unwrap()).unwrap();
        let deadline = Instant::now() + Duration::from_millis(200);
        let none =
            connect_to_addresses(&config, config.hosts.first(), ConnectionKind::Direct, &[silent, silent], deadline)
                .await;
        assert!(none.is_err_and(|error| error.is_none()));
    }
}
