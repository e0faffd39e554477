//! [`Server`]: what a server says of itself, and what that promises.

use std::fmt;

use lock_core::{ClockKind, Expiry, Fault, Faults, Guarantees, Result, WaitStyle};
use sqlx::Row as _;

use crate::config::{FailOver, Mode};
use crate::connection::Way;
use crate::error;
use crate::link::Link;
use crate::statement::Statement;

/// What a server says of itself. What is not known promises nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    to: String,
    syncs: bool,
    whole_pages: bool,
    synchronous_names: String,
    /// Servers that are fed by this one: how many in all, and how many of these it waits for.
    fed: i64,
    waited_for: i64,
    /// Places kept for servers that are fed, also while they are away.
    slots: i64,
    /// What tells of such servers in the past.
    traces: Vec<&'static str>,
    version: i32,
    several_hosts: bool,
    declared: Option<FailOver>,
    way: Way,
    is_logged: bool,
}

/// One thing that an operator should know of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// What it is about.
    pub kind: FindingKind,
    /// One line for people: what was found, where, and what it means.
    pub text: String,
}

/// What a [`Finding`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FindingKind {
    /// The server does not keep every commit through a power loss, or the table not through a crash.
    NotPersisted,
    /// A server could take over that lags behind this one.
    AsynchronousStandby,
    /// A pooler that shares connections is in the way, so that waiters are not told of releases.
    Pooler,
    /// The server is older than what the store was tried on.
    Old,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What lease rows promise on a server that syncs every commit, and is replaced by no server that lacks one.
///
/// A lease ends by the server's wall clock, so that a step of that clock ends or prolongs it, and a pause of the machine
/// may be followed by one; a token does not notice.
pub(crate) const AT_BEST: Guarantees = promises(
    Faults::of(&[Fault::Crash, Fault::PowerLoss, Fault::FailOver]),
    Faults::of(&[Fault::Crash, Fault::PowerLoss, Fault::FailOver, Fault::ClockStep, Fault::Pause]),
);

const fn promises(records: Faults, tokens: Faults) -> Guarantees {
    Guarantees::NONE
        .records_survive(records)
        .tokens_survive(tokens)
        .expiry(Expiry::Ttl(ClockKind::Wall))
        .waiting(WaitStyle::Notified)
}

const LOOK: &str = "select current_setting('fsync') = 'on' as syncs,
    current_setting('full_page_writes') = 'on' as whole_pages,
    current_setting('synchronous_standby_names') as names,
    (select count(*) from pg_stat_replication) as fed,
    (select count(*) from pg_stat_replication where sync_state in ('sync', 'quorum')) as waited_for,
    (select count(*) from pg_replication_slots where slot_type = 'physical') as slots,
    current_setting('server_version_num')::integer as version";

/// What may tell of a server that is fed, or was, and is away just now: each with what it says to people.
const TRACES: [(&str, &str); 5] = [
    ("was_seen", "one was seen before"),
    ("took_over", "its data has a timeline of a server that took over"),
    ("was_fed", "primary_conninfo says by whom it was fed itself"),
    ("has_role", "there is a role for replication"),
    ("keeps_log", "wal_keep_size keeps the log for one"),
];

/// Not every service lets everybody ask this.
const LOOK_FOR_TRACES: &str = "select
    (select standby_seen is not null from {m} where id = 1) as was_seen,
    left(pg_walfile_name(pg_current_wal_lsn()), 8) > '00000001' as took_over,
    case when pg_has_role('pg_read_all_settings', 'usage')
        then coalesce(current_setting('primary_conninfo', true), '') <> '' else false end as was_fed,
    exists (select from pg_roles where rolreplication and rolcanlogin and not rolsuper) as has_role,
    coalesce(current_setting('wal_keep_size', true), '0') <> '0' as keeps_log";

/// Remembers that a server that is fed was seen, for those who look while it is away.
const NOTE: &str = "update {m} set standby_seen = clock_timestamp()
    where id = 1 and (standby_seen is null or standby_seen < clock_timestamp() - interval '1 day')";

impl Server {
    /// Asks the server; `is_logged`: the table is written to its log.
    pub(crate) async fn look(link: &Link, is_logged: bool) -> Result<Server> {
        let statement = Statement::new("looking at the server", LOOK);
        let answer = link.run(&statement, &[]).await?;
        let odd = || error::odd(&answer.to, statement.doing);
        let row = answer.rows.first().ok_or_else(odd)?;
        let odd = |_: sqlx::Error| error::odd(&answer.to, statement.doing);
        let config = link.config();
        let mut server = Server {
            to: answer.to.to_string(),
            syncs: row.try_get("syncs").map_err(odd)?,
            whole_pages: row.try_get("whole_pages").map_err(odd)?,
            synchronous_names: row.try_get("names").map_err(odd)?,
            fed: row.try_get("fed").map_err(odd)?,
            waited_for: row.try_get("waited_for").map_err(odd)?,
            slots: row.try_get("slots").map_err(odd)?,
            traces: Vec::new(),
            version: row.try_get("version").map_err(odd)?,
            several_hosts: config.hosts.len() > 1,
            declared: config.failover,
            way: link.way(),
            is_logged,
        };
        match server.is_fed_or_waits() {
            true => note(link).await,
            false => server.traces = traces(link).await,
        }
        Ok(server)
    }

    fn is_fed_or_waits(&self) -> bool {
        self.fed > 0 || self.slots > 0 || self.waits()
    }

    fn waits(&self) -> bool {
        !self.synchronous_names.trim().is_empty()
    }

    /// How it fails over, as it was declared or as it looks.
    fn failover(&self) -> FailOver {
        match self.declared {
            Some(declared) => declared,
            // Every server that is fed is waited for, so that whichever takes over has every commit.
            None if self.waits() && self.fed > 0 && self.fed == self.waited_for => FailOver::Synchronous,
            None if !self.is_fed_or_waits() && self.traces.is_empty() && !self.several_hosts => FailOver::None,
            None => FailOver::Asynchronous,
        }
    }

    /// What it promises.
    pub(crate) fn guarantees(&self, mode: Mode) -> Guarantees {
        let mut lost = Faults::NONE;
        if !self.syncs || !self.whole_pages {
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
                let waiting = if self.way == Way::Direct { WaitStyle::Notified } else { WaitStyle::Polled };
                promises(AT_BEST.records_survive - lost, tokens).waiting(waiting)
            }
            // An advisory lock lives in the server's memory, as long as the connection that has it.
            Mode::Advisory(_) => promises(Faults::NONE, tokens).expiry(Expiry::Connection).waiting(WaitStyle::Polled),
        }
    }

    /// What an operator should know.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut add = |kind, text: &str| findings.push(Finding { kind, text: format!("{}: {text}", self.to) });
        if !self.syncs || !self.whole_pages {
            let text = "fsync or full_page_writes is off: a power loss can lose who holds a lock, and tokens with it";
            add(FindingKind::NotPersisted, text);
        }
        if !self.is_logged {
            let text = "the table is unlogged: a crash empties it, and tokens begin again";
            add(FindingKind::NotPersisted, text);
        }
        if self.failover() == FailOver::Asynchronous {
            let traces = match self.traces.is_empty() {
                true => String::new(),
                false => format!(" (none is there now, but {})", self.traces.join(", ")),
            };
            let text = format!(
                "a standby could take over that lags, or it is unknown whether one could{traces}: two holders, and a \
                 token given twice; wait for it (synchronous_standby_names), or say what is so with failover="
            );
            add(FindingKind::AsynchronousStandby, &text);
        }
        if self.way == Way::Pooled {
            let text = "a pooler that shares connections is in the way: waiters are not told of releases, and look \
                        again and again";
            add(FindingKind::Pooler, text);
        }
        if self.version < 130_000 {
            add(FindingKind::Old, "it is older than PostgreSQL 13, and the store was not tried on it");
        }
        findings
    }
}

/// What tells of a server that was fed before. Where it may not be asked, nothing does.
async fn traces(link: &Link) -> Vec<&'static str> {
    let statement = Statement::new("looking at the server", link.config().table.name_in(LOOK_FOR_TRACES));
    let answer = match link.run(&statement, &[]).await {
        Ok(answer) => answer,
        Err(failed) => {
            let error = failed.error;
            tracing::debug!(target: "leasehold", store = "postgres", %error, "whether it had standbys is not known");
            return Vec::new();
        }
    };
    let row = answer.rows.first();
    let says = |column: &str| row.and_then(|row| row.try_get::<Option<bool>, _>(column).ok().flatten()) == Some(true);
    TRACES.into_iter().filter(|(column, _)| says(column)).map(|(_, text)| text).collect()
}

async fn note(link: &Link) {
    let statement = Statement::new("noting a standby", link.config().table.name_in(NOTE));
    if let Err(failed) = link.run(&statement, &[]).await {
        let error = failed.error;
        tracing::debug!(target: "leasehold", store = "postgres", %error, "that there is a standby was not noted");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Server {
        Server {
            to: "here".to_owned(),
            syncs: true,
            whole_pages: true,
            synchronous_names: String::new(),
            fed: 0,
            waited_for: 0,
            slots: 0,
            traces: Vec::new(),
            version: 150_000,
            several_hosts: false,
            declared: None,
            way: Way::Direct,
            is_logged: true,
        }
    }

    fn tokens(server: &Server) -> Faults {
        server.guarantees(Mode::Rows).tokens_survive.unwrap()
    }

    #[test]
    fn a_server_alone_promises_all_and_is_enough_for_correctness() {
        assert_eq!(server().guarantees(Mode::Rows), AT_BEST);
        assert!(AT_BEST.shortfalls(&Guarantees::FOR_CORRECTNESS).is_empty());
        assert!(server().findings().is_empty());
    }

    #[test]
    fn a_standby_that_may_lag_or_is_unknown_takes_the_fail_over_away() {
        let lags = Server { fed: 1, ..server() };
        let one_lags = Server { fed: 2, waited_for: 1, synchronous_names: "a".to_owned(), ..server() };
        let away = Server { slots: 1, ..server() };
        let hosts = Server { several_hosts: true, ..server() };
        let before = Server { traces: vec!["one was seen before"], ..server() };
        for server in [lags, one_lags, away, hosts, before] {
            assert!(!tokens(&server).contains(Fault::FailOver.into()), "{server:?}");
            assert_eq!(server.findings()[0].kind, FindingKind::AsynchronousStandby);
        }
    }

    #[test]
    fn standbys_that_are_waited_for_keep_it_and_so_does_a_word_of_the_operator() {
        let waits = Server { fed: 1, waited_for: 1, synchronous_names: "*".to_owned(), ..server() };
        let declared = Server { several_hosts: true, declared: Some(FailOver::Synchronous), ..server() };
        for server in [waits, declared] {
            assert!(tokens(&server).contains(Fault::FailOver.into()), "{server:?}");
        }
        let denied = Server { declared: Some(FailOver::Asynchronous), ..server() };
        assert!(!tokens(&denied).contains(Fault::FailOver.into()));
    }

    #[test]
    fn what_is_not_synced_or_logged_is_not_promised() {
        let lazy = Server { syncs: false, ..server() };
        assert_eq!(AT_BEST.tokens_survive.unwrap() - tokens(&lazy), Fault::PowerLoss.into());
        let unlogged = Server { is_logged: false, ..server() };
        assert!(!tokens(&unlogged).contains(Fault::Crash.into()));
        assert!(unlogged.guarantees(Mode::Rows).records_survive.is_empty());
    }
}
