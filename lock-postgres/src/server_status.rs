//! [`ServerStatus`]: the settings and standbys of a server, and the guarantees that follow from
//! them.

use lock_core::{ClockKind, Expiry, Fault, Faults, Guarantees, Result, WaitStyle};
use sqlx::Row as _;

use crate::config::{FailOver, Mode};
use crate::connection::ConnectionKind;
use crate::database::Database;
use crate::error;
use crate::statement::Statement;

/// The settings and standbys of a server. What is unknown counts as the worst.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerStatus {
    pub(crate) server: String,
    pub(crate) has_fsync: bool,
    pub(crate) has_full_page_writes: bool,
    synchronous_names: String,
    /// Number of connected standbys, and how many of them are synchronous.
    pub(crate) standbys: i64,
    synchronous_standbys: i64,
    /// Replication slots, which stay while their standby is away.
    replication_slots: i64,
    /// Signs of standbys in the past.
    pub(crate) standby_signs: Vec<&'static str>,
    pub(crate) version: i32,
    has_several_hosts: bool,
    pub(crate) declared: Option<FailOver>,
    pub(crate) connection: ConnectionKind,
    pub(crate) is_logged: bool,
}

/// The guarantees of lease rows on a server that syncs every commit, where no standby that lacks a
/// commit can take over.
///
/// A lease ends by the server's wall clock, so that a step of that clock ends or prolongs it, and a
/// pause of the machine may be followed by one; a token does not notice.
pub(crate) const AT_BEST: Guarantees = guarantees_with(
    Faults::of(&[Fault::Crash, Fault::PowerLoss, Fault::FailOver]),
    Faults::of(&[Fault::Crash, Fault::PowerLoss, Fault::FailOver, Fault::ClockStep, Fault::Pause]),
);

const fn guarantees_with(records: Faults, tokens: Faults) -> Guarantees {
    Guarantees::NONE
        .records_survive(records)
        .tokens_survive(tokens)
        .expiry(Expiry::Ttl(ClockKind::Wall))
        .waiting(WaitStyle::Notified)
}

const READ_STATUS: &str = "select current_setting('fsync') = 'on' as syncs,
    current_setting('full_page_writes') = 'on' as whole_pages,
    current_setting('synchronous_standby_names') as names,
    (select count(*) from pg_stat_replication) as fed,
    (select count(*) from pg_stat_replication where sync_state in ('sync', 'quorum')) as waited_for,
    (select count(*) from pg_replication_slots where slot_type = 'physical') as slots,
    current_setting('server_version_num')::integer as version";

/// Signs of a standby that is away: the column, and the text for people.
const STANDBY_SIGNS: [(&str, &str); 5] = [
    ("was_seen", "one was seen before"),
    ("took_over", "its data has a timeline of a server that took over"),
    ("was_fed", "primary_conninfo says by whom it was fed itself"),
    ("has_role", "there is a role for replication"),
    ("keeps_log", "wal_keep_size keeps the log for one"),
];

/// Reads the signs; some managed services do not allow it to every user.
const READ_STANDBY_SIGNS: &str = "select
    (select standby_seen is not null from {m} where id = 1) as was_seen,
    left(pg_walfile_name(pg_current_wal_lsn()), 8) > '00000001' as took_over,
    case when pg_has_role('pg_read_all_settings', 'usage')
        then coalesce(current_setting('primary_conninfo', true), '') <> '' else false end as was_fed,
    exists (select from pg_roles where rolreplication and rolcanlogin and not rolsuper) as has_role,
    coalesce(current_setting('wal_keep_size', true), '0') <> '0' as keeps_log";

/// Records that a standby was seen, for processes that connect while it is away.
const RECORD_STANDBY: &str = "update {m} set standby_seen = clock_timestamp()
    where id = 1 and (standby_seen is null or standby_seen < clock_timestamp() - interval '1 day')";

impl ServerStatus {
    /// Reads the status; `is_logged`: writes to the table go to the server's log (WAL).
    pub(crate) async fn read(database: &Database, is_logged: bool) -> Result<ServerStatus> {
        let statement = Statement::new("looking at the server", READ_STATUS);
        let reply = database.run(&statement, &[]).await?;
        let unexpected = || error::unexpected_reply(&reply.server, statement.action);
        let row = reply.rows.first().ok_or_else(unexpected)?;
        let unexpected = |_: sqlx::Error| error::unexpected_reply(&reply.server, statement.action);
        let config = database.config();
        let mut server = ServerStatus {
            server: reply.server.to_string(),
            has_fsync: row.try_get("syncs").map_err(unexpected)?,
            has_full_page_writes: row.try_get("whole_pages").map_err(unexpected)?,
            synchronous_names: row.try_get("names").map_err(unexpected)?,
            standbys: row.try_get("fed").map_err(unexpected)?,
            synchronous_standbys: row.try_get("waited_for").map_err(unexpected)?,
            replication_slots: row.try_get("slots").map_err(unexpected)?,
            standby_signs: Vec::new(),
            version: row.try_get("version").map_err(unexpected)?,
            has_several_hosts: config.hosts.len() > 1,
            declared: config.failover,
            connection: database.kind(),
            is_logged,
        };
        match server.has_standbys() {
            true => record_standby(database).await,
            false => server.standby_signs = standby_signs(database).await,
        }
        Ok(server)
    }

    fn has_standbys(&self) -> bool {
        self.standbys > 0 || self.replication_slots > 0 || self.is_synchronous()
    }

    fn is_synchronous(&self) -> bool {
        !self.synchronous_names.trim().is_empty()
    }

    /// The kind of fail-over, declared or detected.
    pub(crate) fn failover(&self) -> FailOver {
        match self.declared {
            Some(declared) => declared,
            // Every standby is synchronous, so that whichever takes over has every commit.
            None if self.is_synchronous() && self.standbys > 0 && self.standbys == self.synchronous_standbys => {
                FailOver::Synchronous
            }
            None if !self.has_standbys() && self.standby_signs.is_empty() && !self.has_several_hosts => FailOver::None,
            None => FailOver::Asynchronous,
        }
    }

    /// The guarantees of a store on this server.
    pub(crate) fn guarantees(&self, mode: Mode) -> Guarantees {
        let mut lost = Faults::NONE;
        if !self.has_fsync || !self.has_full_page_writes {
            lost = lost | Fault::PowerLoss.into();
        }
        if !self.is_logged {
            lost = lost | Faults::of(&[Fault::Crash, Fault::PowerLoss, Fault::FailOver]);
        }
        if self.failover() == FailOver::Asynchronous {
            lost = lost | Fault::FailOver.into();
        }
        let tokens = AT_BEST.tokens_survive.unwrap_or_default() - lost;
        match mode {
            Mode::Rows => {
                let waiting =
                    if self.connection == ConnectionKind::Direct { WaitStyle::Notified } else { WaitStyle::Polled };
                guarantees_with(AT_BEST.records_survive - lost, tokens).waiting(waiting)
            }
            // An advisory lock lives in the server's memory, as long as the connection that has it.
            Mode::Advisory(_) => {
                guarantees_with(Faults::NONE, tokens).expiry(Expiry::Connection).waiting(WaitStyle::Polled)
            }
        }
    }
}

/// The signs of earlier standbys; none where they may not be read.
async fn standby_signs(database: &Database) -> Vec<&'static str> {
    let statement = Statement::new("looking at the server", database.config().table.with_names(READ_STANDBY_SIGNS));
    let reply = match database.run(&statement, &[]).await {
        Ok(reply) => reply,
        Err(failed) => {
            let error = failed.error;
            tracing::debug!(target: "leasehold", store = "postgres", %error, "whether it had standbys is not known");
            return Vec::new();
        }
    };
    let row = reply.rows.first();
    let says = |column: &str| row.and_then(|row| row.try_get::<Option<bool>, _>(column).ok().flatten()) == Some(true);
    STANDBY_SIGNS.into_iter().filter(|(column, _)| says(column)).map(|(_, text)| text).collect()
}

async fn record_standby(database: &Database) {
    let statement = Statement::new("noting a standby", database.config().table.with_names(RECORD_STANDBY));
    if let Err(failed) = database.run(&statement, &[]).await {
        let error = failed.error;
        tracing::debug!(target: "leasehold", store = "postgres", %error, "that there is a standby was not noted");
    }
}

#[cfg(test)]
mod tests {
    use lock_core::Severity;

    use super::*;

    fn server() -> ServerStatus {
        ServerStatus {
            server: "here".to_owned(),
            has_fsync: true,
            has_full_page_writes: true,
            synchronous_names: String::new(),
            standbys: 0,
            synchronous_standbys: 0,
            replication_slots: 0,
            standby_signs: Vec::new(),
            version: 150_000,
            has_several_hosts: false,
            declared: None,
            connection: ConnectionKind::Direct,
            is_logged: true,
        }
    }

    fn tokens(server: &ServerStatus) -> Faults {
        server.guarantees(Mode::Rows).tokens_survive.unwrap()
    }

    /// The codes of the findings that are worse than a plain fact.
    fn warnings(server: &ServerStatus) -> Vec<&'static str> {
        let findings = server.findings().into_iter();
        findings.filter(|finding| finding.severity > Severity::Info).map(|finding| finding.code).collect()
    }

    #[test]
    fn a_server_alone_promises_all_and_is_enough_for_correctness() {
        assert_eq!(server().guarantees(Mode::Rows), AT_BEST);
        assert!(AT_BEST.shortfalls(&Guarantees::FOR_CORRECTNESS).is_empty());
        assert_eq!(warnings(&server()), [] as [&str; 0]);
    }

    #[test]
    fn a_standby_that_may_lag_or_is_unknown_takes_the_fail_over_away() {
        let lags = ServerStatus { standbys: 1, ..server() };
        let one_lags =
            ServerStatus { standbys: 2, synchronous_standbys: 1, synchronous_names: "a".to_owned(), ..server() };
        let away = ServerStatus { replication_slots: 1, ..server() };
        let hosts = ServerStatus { has_several_hosts: true, ..server() };
        let before = ServerStatus { standby_signs: vec!["one was seen before"], ..server() };
        for server in [lags, one_lags, away, hosts, before] {
            assert!(!tokens(&server).contains(Fault::FailOver.into()), "{server:?}");
            assert_eq!(warnings(&server), ["standby"]);
        }
    }

    #[test]
    fn standbys_that_are_waited_for_keep_it_and_so_does_a_word_of_the_operator() {
        let is_synchronous =
            ServerStatus { standbys: 1, synchronous_standbys: 1, synchronous_names: "*".to_owned(), ..server() };
        let declared = ServerStatus { has_several_hosts: true, declared: Some(FailOver::Synchronous), ..server() };
        for server in [is_synchronous, declared] {
            assert!(tokens(&server).contains(Fault::FailOver.into()), "{server:?}");
        }
        let denied = ServerStatus { declared: Some(FailOver::Asynchronous), ..server() };
        assert!(!tokens(&denied).contains(Fault::FailOver.into()));
    }

    #[test]
    fn what_is_not_synced_or_logged_is_not_promised() {
        let lazy = ServerStatus { has_fsync: false, ..server() };
        assert_eq!(AT_BEST.tokens_survive.unwrap() - tokens(&lazy), Fault::PowerLoss.into());
        assert_eq!(warnings(&lazy), ["fsync"]);
        let unlogged = ServerStatus { is_logged: false, ..server() };
        assert!(!tokens(&unlogged).contains(Fault::Crash.into()));
        assert!(unlogged.guarantees(Mode::Rows).records_survive.is_empty());
        assert_eq!(warnings(&unlogged), ["table"]);
    }

    #[test]
    fn an_old_server_and_a_pooler_are_found() {
        let old = ServerStatus { version: 120_017, connection: ConnectionKind::Pooled, ..server() };
        assert_eq!(warnings(&old), ["version", "pooler"]);
        assert!(old.findings()[0].text.starts_with("12.17 "), "{:?}", old.findings());
    }
}
