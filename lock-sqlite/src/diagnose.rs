//! The diagnosis of a [`SqliteStore`]: the file, its file system, its settings and its users.

use std::path::{Path, PathBuf};

use lock_core::{Filesystem, Finding, Result};

use crate::error::OpError;
use crate::inode::Inode;
use crate::ops::Op;
use crate::presence::{Users, users_of};
use crate::store::SqliteStore;
use crate::tables::{TableFacts, Tables};
use crate::wal_files::log_path;

/// Free space below which a disk is about to be full.
const MIN_FREE_BYTES: u64 = 64 << 20;
/// Free space below which a write is likely to fail: a log of a few hundred pages must fit.
const MIN_USABLE_BYTES: u64 = 1 << 20;
/// Size of the log from which something keeps it from being merged: SQLite merges it after about
/// 4 MiB.
const MAX_LOG_BYTES: u64 = 64 << 20;
/// `PRAGMA synchronous` from which a commit is on the disk before it is answered: `full`.
const SYNCHRONOUS_FULL: i64 = 2;

impl SqliteStore {
    /// The codes of its findings. Every answer has each of them; the page of the store says what
    /// they mean.
    pub const FINDING_CODES: &'static [&'static str] =
        &["file", "log", "filesystem", "space", "journal-mode", "synchronous", "users", "locks", "realm", "writable"];

    /// The findings about the file. They are read while another process writes, and then the store
    /// waits for its turn to write, for `busy_timeout` at most.
    ///
    /// # Errors
    ///
    /// The error of the file, if it cannot be opened or read.
    pub(crate) async fn findings(&self) -> Result<Vec<Finding>> {
        let mut findings = match self.submit(Diagnose { path: self.path.clone() }).await {
            // Others find another file at the path, or none.
            Err(error) if self.shared.is_gone() => return Ok(vec![Finding::error("file", error.to_string())]),
            findings => findings?,
        };
        findings.push(match self.submit(BeginWrite).await {
            Ok(()) => Finding::info("writable", "a write transaction was begun"),
            Err(error) => {
                let text = format!("{error}: a process that is stopped inside its transaction blocks all locks");
                Finding::error("writable", text)
            }
        });
        Ok(findings)
    }
}

/// Looks at the file, without writing.
struct Diagnose {
    path: PathBuf,
}

impl Op for Diagnose {
    type Outcome = Vec<Finding>;

    fn read_only(&mut self, tables: &mut Tables<'_>) -> Result<Option<Self::Outcome>, OpError> {
        self.apply(tables).map(Some)
    }

    fn apply(&mut self, tables: &mut Tables<'_>) -> Result<Self::Outcome, OpError> {
        let (path, facts) = (&*self.path, tables.facts()?);
        Ok(vec![
            file_finding(path),
            log_finding(path),
            filesystem_finding(path),
            space_finding(path),
            journal_finding(&facts),
            synchronous_finding(&facts),
            users_finding(path),
            Finding::info("locks", format!("{} are held, and the table has {} rows", facts.held, facts.rows)),
            Finding::info("realm", facts.realm.to_string()),
        ])
    }
}

/// Begins a write transaction, and writes nothing.
struct BeginWrite;

impl Op for BeginWrite {
    type Outcome = ();

    fn may_read_only(&self) -> bool {
        false
    }

    fn apply(&mut self, _tables: &mut Tables<'_>) -> Result<(), OpError> {
        Ok(())
    }
}

fn file_finding(path: &Path) -> Finding {
    match std::fs::metadata(path) {
        Ok(file) => Finding::info("file", format!("{} bytes", file.len())),
        Err(error) => Finding::error("file", format!("it cannot be looked at: {error}")),
    }
}

fn log_finding(path: &Path) -> Finding {
    // A log that is not there has nothing that is not merged.
    let size = log_path(path).and_then(std::fs::metadata).map_or(0, |log| log.len());
    match size > MAX_LOG_BYTES {
        true => {
            let text = format!("{size} bytes: something keeps it from being merged, such as a reader that never ends");
            Finding::warning("log", text)
        }
        false => Finding::info("log", format!("{size} bytes")),
    }
}

fn filesystem_finding(path: &Path) -> Finding {
    const CODE: &str = "filesystem";
    match Filesystem::of(path) {
        Ok(Filesystem::Disk) => Finding::info(CODE, "a disk of this machine"),
        Ok(Filesystem::Memory) => {
            let text = "it is memory, or may be: a power loss loses locks and tokens; put the file on a disk";
            Finding::warning(CODE, text)
        }
        Ok(Filesystem::Shared(name)) => {
            let text = format!("it is {name}, which other machines may write to: leases cannot be judged there");
            Finding::error(CODE, text)
        }
        Err(error) => Finding::warning(CODE, format!("not known: {error}")),
    }
}

fn space_finding(path: &Path) -> Finding {
    match rustix::fs::statvfs(path) {
        Ok(found) => space_finding_of(found.f_bavail.saturating_mul(found.f_frsize)),
        Err(error) => Finding::warning("space", format!("not known: {error}")),
    }
}

fn space_finding_of(free: u64) -> Finding {
    let text = format!("{free} bytes are free");
    match free {
        free if free < MIN_USABLE_BYTES => Finding::error("space", format!("{text}: writes fail")),
        free if free < MIN_FREE_BYTES => {
            Finding::warning("space", format!("{text}: when none is left, no lock can be acquired or renewed"))
        }
        _ => Finding::info("space", text),
    }
}

fn journal_finding(facts: &TableFacts) -> Finding {
    let mode = &*facts.journal_mode;
    match mode {
        "wal" => Finding::info("journal-mode", mode),
        _ => Finding::error("journal-mode", format!("{mode}: another program changed it; it must be wal")),
    }
}

fn synchronous_finding(facts: &TableFacts) -> Finding {
    match facts.synchronous {
        level if level >= SYNCHRONOUS_FULL => Finding::info("synchronous", "each commit is synced"),
        level => Finding::error("synchronous", format!("{level}: commits are not synced; it must be 2 (full)")),
    }
}

fn users_finding(path: &Path) -> Finding {
    let users = std::fs::metadata(path).and_then(|file| users_of(Inode::from(&file)));
    match users {
        Ok(Users { stores, has_others: true }) => {
            Finding::info("users", format!("{stores} stores of this process, and at least one other process"))
        }
        Ok(Users { stores, has_others: false }) => {
            Finding::info("users", format!("{stores} stores of this process, and no other process"))
        }
        Err(error) => Finding::warning("users", format!("not known: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use lock_core::{Realm, Severity};

    use super::*;

    #[test]
    fn little_space_is_a_warning_and_none_an_error() {
        let severity = |free| space_finding_of(free).severity;
        assert_eq!(
            [severity(0), severity(2 << 20), severity(1 << 40)],
            [Severity::Error, Severity::Warning, Severity::Info]
        );
    }

    #[test]
    fn settings_that_another_program_changed_are_errors() {
        let facts = |journal_mode: &str, synchronous| TableFacts {
            journal_mode: journal_mode.to_owned(),
            synchronous,
            rows: 0,
            held: 0,
            realm: Realm::new("r"),
        };
        assert_eq!(journal_finding(&facts("wal", 2)).severity, Severity::Info);
        assert_eq!(journal_finding(&facts("delete", 2)).severity, Severity::Error);
        assert_eq!(synchronous_finding(&facts("wal", 2)).severity, Severity::Info);
        assert_eq!(synchronous_finding(&facts("wal", 1)).severity, Severity::Error);
    }
}
