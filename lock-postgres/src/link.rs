//! [`Link`]: the connections to the primary, and how a step goes over one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lock_core::{Effect, Error, ErrorKind, Holder, Result};
use sqlx::postgres::{PgConnectOptions, PgRow, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection as _, PgConnection, Row as _};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::config::TlsMode;
use crate::statement::{Statement, Value};
use crate::{PostgresConfig, error};

/// The connections to the primary: a few, each used by one step at a time.
///
/// A step that was cut off, or whose answer never came, closes its connection: nothing that is still on its way can be
/// taken for the answer to another step.
pub(crate) struct Link {
    config: PostgresConfig,
    way: Way,
    permits: Semaphore,
    idle: Mutex<Vec<(Connection, Instant)>>,
}

/// How steps go over a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The connection is ours: it has the settings that we gave it, and remembers what was prepared.
    Direct,
    /// Each transaction may go over another server connection: every step is one message that says all it needs.
    Pooled,
}

/// One connection to the primary.
pub(crate) struct Connection {
    client: PgConnection,
    /// What `pg_control_system()` says of the data; empty if this user may not ask.
    pub(crate) system: Arc<str>,
    /// Where it leads to, for people.
    pub(crate) to: Arc<str>,
    options: PgConnectOptions,
}

/// The answer to a step.
pub(crate) struct Answer {
    pub(crate) rows: Vec<PgRow>,
    pub(crate) system: Arc<str>,
    pub(crate) to: Arc<str>,
}

/// A connection that was idle for longer may have been forgotten by something on its way.
const IDLE: Duration = Duration::from_secs(60);
/// So often is a statement asked again that met another transaction and was undone.
const MEETINGS: usize = 5;

impl Link {
    /// Finds out what is in the way to the server, unless it is told.
    pub(crate) async fn open(config: &PostgresConfig) -> Result<Link> {
        let way = match config.pooler {
            Some(true) => Way::Pooled,
            Some(false) => Way::Direct,
            None => look_for_a_pooler(config).await?,
        };
        let link =
            Link { config: config.clone(), way, permits: Semaphore::new(config.connections), idle: Mutex::default() };
        let connection = link.dial().await?;
        link.put_back(connection);
        Ok(link)
    }

    pub(crate) fn way(&self) -> Way {
        self.way
    }

    pub(crate) fn config(&self) -> &PostgresConfig {
        &self.config
    }

    /// A new connection to the primary.
    pub(crate) async fn dial(&self) -> Result<Connection> {
        dial(&self.config, self.way).await
    }

    /// Runs statements without values, as one message.
    pub(crate) async fn script(&self, doing: &str, sql: String) -> Result<()> {
        let mut connection = self.dial().await?;
        let limit = self.config.response_timeout;
        match timeout(limit, sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection.client)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(failed)) => Err(error::of_step(&connection.to, doing, failed)),
            Err(_) => Err(error::timed_out(&connection.to, doing, limit, Effect::Unknown)),
        }
    }

    /// Runs a statement, and again if it met another transaction and was undone.
    pub(crate) async fn run(&self, statement: &Statement, values: &[Value]) -> Result<Answer> {
        let place = timeout(self.config.connect_timeout, self.permits.acquire()).await;
        let Ok(Ok(_place)) = place else {
            let (to, limit) = (self.config.shown(), self.config.connect_timeout);
            let text = format!("{to}: no connection was free within {limit:?} for {}", statement.doing);
            return Err(Error::refused(ErrorKind::TimedOut, text));
        };
        let mut connection = match self.take_idle() {
            Some(connection) => connection,
            None => self.dial().await?,
        };
        let mut meetings = 0;
        loop {
            match timeout(self.config.response_timeout, connection.ask(self.way, statement, values)).await {
                Ok(Ok(rows)) => {
                    let (system, to) = (connection.system.clone(), connection.to.clone());
                    self.put_back(connection);
                    return Ok(Answer { rows, system, to });
                }
                Ok(Err(failed)) if error::is_a_meeting(&failed) && meetings < MEETINGS => meetings += 1,
                Ok(Err(failed)) => {
                    let to = connection.to.clone();
                    if error::ends_connection(&failed) {
                        // The others lead to the same server.
                        self.forget_idle();
                    } else {
                        self.put_back(connection);
                    }
                    return Err(error::of_step(&to, statement.doing, failed));
                }
                Err(_) => {
                    let limit = self.config.response_timeout;
                    return Err(error::timed_out(&connection.to, statement.doing, limit, Effect::Unknown));
                }
            }
        }
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // The one that was used last is the last: if it is too old, all are.
        match idle.pop() {
            Some((connection, since)) if since.elapsed() < IDLE => Some(connection),
            _ => {
                idle.clear();
                None
            }
        }
    }

    fn put_back(&self, connection: Connection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push((connection, Instant::now()));
    }

    fn forget_idle(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Connection {
    /// One statement, without a bound.
    pub(crate) async fn ask(
        &mut self,
        way: Way,
        statement: &Statement,
        values: &[Value],
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        match way {
            Way::Direct => {
                let mut query = sqlx::query(AssertSqlSafe(statement.sql.clone()));
                for value in values {
                    query = match value.clone() {
                        Value::Text(text) => query.bind(text),
                        Value::Number(number) => query.bind(number),
                        Value::Texts(texts) => query.bind(texts),
                        Value::Numbers(numbers) => query.bind(numbers),
                    };
                }
                query.fetch_all(&mut self.client).await
            }
            Way::Pooled => {
                // One message is one transaction, and one transaction is on one server connection. The settings are
                // its own and end with it.
                let text = format!(
                    "set transaction isolation level read committed, read write; {}; {}",
                    SETTINGS.map(|(name, value)| format!("set local {name} = '{value}'")).join("; "),
                    statement.spelled(values)
                );
                sqlx::raw_sql(AssertSqlSafe(text)).fetch_all(&mut self.client).await
            }
        }
    }

    /// How it was reached; for a connection that listens.
    pub(crate) fn options(&self) -> PgConnectOptions {
        self.options.clone()
    }
}

/// The settings under which steps run, whatever the defaults of the database and of the user are.
///
/// `synchronous_commit`: a grant that was answered is on the disk. `lock_timeout`: no step waits for a row for long.
const SETTINGS: [(&str, &str); 3] =
    [("synchronous_commit", "on"), ("lock_timeout", "1s"), ("idle_in_transaction_session_timeout", "10s")];

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

/// Connects to the primary among the hosts.
async fn dial(config: &PostgresConfig, way: Way) -> Result<Connection> {
    let mut refusal = None;
    let hosts: Vec<_> = config.hosts.iter().map(Some).chain(config.hosts.is_empty().then_some(None)).collect();
    for host in hosts {
        match timeout(config.connect_timeout, dial_host(config, host, way)).await {
            Ok(Ok(connection)) => return Ok(connection),
            // A host that is up and refuses says more than one that is down.
            Ok(Err(error)) if error.kind() != ErrorKind::Unavailable => refusal = Some(error),
            Ok(Err(error)) => drop(refusal.get_or_insert(error)),
            Err(_) => {
                let limit = config.connect_timeout;
                let error = error::timed_out(&shown(config, host), "connecting", limit, Effect::None);
                refusal.get_or_insert(error);
            }
        }
    }
    Err(refusal.unwrap_or_else(|| Error::refused(ErrorKind::InvalidConfig, "there is no host")))
}

fn shown(config: &PostgresConfig, host: Option<&(String, Option<u16>)>) -> String {
    let database = config.database.as_deref().unwrap_or_default();
    match host {
        Some((host, Some(port))) => format!("postgres {host}:{port}/{database}"),
        Some((host, None)) => format!("postgres {host}/{database}"),
        None => format!("postgres /{database}"),
    }
}

async fn dial_host(config: &PostgresConfig, host: Option<&(String, Option<u16>)>, way: Way) -> Result<Connection> {
    let to = shown(config, host);
    let mark = Holder::fresh().to_string();
    let options = options(config, host, way, &mark);
    let mut client =
        PgConnection::connect_with(&options).await.map_err(|failed| match error::code(&failed).as_deref() {
            // What a pooler answers to settings that it does not pass on.
            Some("08P01") if way == Way::Direct => pooler(&to),
            _ => error::of_connecting(&to, &failed),
        })?;
    let row = sqlx::raw_sql(LOOK).fetch_one(&mut client).await.map_err(|failed| error::of_connecting(&to, &failed))?;
    let odd = |_: sqlx::Error| error::odd(&to, "looking at the server");
    let seen: Option<String> = row.try_get("mark").map_err(odd)?;
    let isolation: String = row.try_get("isolation").map_err(odd)?;
    if way == Way::Direct && (seen.as_deref() != Some(&mark) || isolation != "read committed") {
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
            let row = sqlx::raw_sql("select system_identifier::text from pg_control_system()").fetch_one(&mut client);
            row.await.and_then(|row| row.try_get(0)).map_err(|failed| error::of_connecting(&to, &failed))?
        }
    };
    Ok(Connection { client, system: system.into(), to: to.into(), options })
}

fn options(config: &PostgresConfig, host: Option<&(String, Option<u16>)>, way: Way, mark: &str) -> PgConnectOptions {
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
    options.disable_statement_logging()
}

/// That settings did not reach the server; and how the caller tells it from other refusals.
fn pooler(to: &str) -> Error {
    Error::refused(ErrorKind::TooWeak, format!("{to}: a pooler that shares connections is in the way"))
}

async fn look_for_a_pooler(config: &PostgresConfig) -> Result<Way> {
    match dial(config, Way::Direct).await {
        Ok(_) => Ok(Way::Direct),
        Err(error) if error.kind() == ErrorKind::TooWeak => Ok(Way::Pooled),
        Err(error) => Err(error),
    }
}
