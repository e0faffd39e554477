//! The diagnosis of both stores: the server, its standbys and the tables, read anew.

use lock_core::{Finding, Guarantees, Realm, Result, Severity};

use crate::config::FailOver;
use crate::connection::ConnectionKind;
use crate::database::Database;
use crate::server_status::ServerStatus;
use crate::tables;

/// The codes of the findings of both stores. Every answer has each of them.
pub(crate) const FINDING_CODES: &[&str] = &["version", "fsync", "table", "standby", "pooler", "guarantees", "realm"];

/// The oldest version on which the stores were tried, as `server_version_num`.
const OLDEST_VERSION: i32 = 130_000;

/// The findings about the server and the tables, for a store that promised this when it was opened,
/// and that knows the data as this realm.
pub(crate) async fn findings(database: &Database, promised: &Guarantees, known: &Realm) -> Result<Vec<Finding>> {
    let table = match tables::read(database).await {
        Err(error) if error.is_retryable() => return Err(error),
        table => table,
    };
    let is_logged = table.as_ref().is_ok_and(|table| table.is_logged);
    let server = ServerStatus::read(database, is_logged).await?;
    let mut findings = server.findings();
    match table {
        Ok(table) => findings.push(realm_finding(&table.realm, known)),
        Err(error) => {
            findings.retain(|finding| finding.code != "table");
            findings.push(Finding::error("table", error.to_string()));
            findings.push(Finding::error("realm", format!("not known, and this process knows {known}")));
        }
    }
    findings.push(Finding::guarantees(promised, &server.guarantees(database.config().mode)));
    findings.sort_by_key(|finding| FINDING_CODES.iter().position(|code| *code == finding.code));
    Ok(findings)
}

fn realm_finding(now: &Realm, known: &Realm) -> Finding {
    if now == known {
        return Finding::info("realm", now.to_string());
    }
    let text = format!(
        "the data is of realm {now}, and this process knows {known}: it was replaced, or a new realm was begun; its \
         tokens do not compare with earlier ones"
    );
    Finding::error("realm", text)
}

impl ServerStatus {
    /// Logs the findings that are worse than a plain fact.
    pub(crate) fn warn(&self) {
        for finding in self.findings().iter().filter(|finding| finding.severity > Severity::Info) {
            tracing::warn!(target: "leasehold", store = "postgres", "{finding}");
        }
    }

    /// The findings about the server and its table.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        let findings = [
            self.version_finding(),
            self.fsync_finding(),
            self.table_finding(),
            self.standby_finding(),
            self.pooler_finding(),
        ];
        findings.map(|finding| finding.about(&*self.server)).into()
    }

    fn version_finding(&self) -> Finding {
        let version = format!("{}.{}", self.version / 10_000, self.version % 10_000);
        match self.version < OLDEST_VERSION {
            true => {
                Finding::warning("version", format!("{version} is older than 13, on which the store was not tried"))
            }
            false => Finding::info("version", version),
        }
    }

    fn fsync_finding(&self) -> Finding {
        let on = |is_on| if is_on { "on" } else { "off" };
        let seen = format!("fsync {}, full_page_writes {}", on(self.has_fsync), on(self.has_full_page_writes));
        match self.has_fsync && self.has_full_page_writes {
            true => Finding::info("fsync", seen),
            false => {
                let text = "a power loss can lose who holds a lock, and tokens with it; set both on";
                Finding::warning("fsync", format!("{seen}: {text}"))
            }
        }
    }

    fn table_finding(&self) -> Finding {
        match self.is_logged {
            true => Finding::info("table", "its writes are in the server's log"),
            false => {
                let text = "it is unlogged: a crash empties it, and tokens begin again; alter table … set logged";
                Finding::warning("table", text)
            }
        }
    }

    fn standby_finding(&self) -> Finding {
        let declared = if self.declared.is_some() { ", as failover= declares" } else { "" };
        match self.failover() {
            FailOver::None => Finding::info("standby", format!("none that could take over{declared}")),
            FailOver::Synchronous => {
                let text = format!("{} are connected, and each has every commit{declared}", self.standbys);
                Finding::info("standby", text)
            }
            FailOver::Asynchronous => {
                let signs = match self.standby_signs.is_empty() {
                    true => String::new(),
                    false => format!(" (none is there now, but {})", self.standby_signs.join(", ")),
                };
                let text = format!(
                    "a standby could take over that lags, or it is unknown whether one could{signs}: two holders, and \
                     a token given twice; wait for it (synchronous_standby_names), or say what is so with failover="
                );
                Finding::warning("standby", text)
            }
        }
    }

    fn pooler_finding(&self) -> Finding {
        match self.connection {
            ConnectionKind::Direct => Finding::info("pooler", "none that shares connections is in the way"),
            ConnectionKind::Pooled => {
                let text = "one that shares connections is in the way: waiters are not told of releases, and look \
                            again and again; connect to the server itself, or with session pooling";
                Finding::warning("pooler", text)
            }
        }
    }
}
