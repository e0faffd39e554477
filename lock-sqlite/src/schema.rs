//! The layout of the file, and the check whether a file has it.

use std::path::Path;
use std::time::{Duration, Instant};

use lock_core::{Error, Realm, Result};
use rusqlite::{Connection, params};

use crate::error;
use crate::machine::Machine;

/// The `application_id` of our files: "leas".
const APPLICATION_ID: i64 = 0x6c65_6173;
/// The layout version of this program.
const SCHEMA_VERSION: i64 = 1;

/// The tables. Free rows stay, so that their tokens go on rising; the sweep in `tables.rs` removes
/// them when there are many.
const SCHEMA: &str = "
    create table meta (
        id integer primary key check (id = 1),
        realm text not null,
        machine text,
        boot text not null,
        place text
    ) strict;
    create table lease_floor (
        id integer primary key check (id = 1),
        floor integer not null,
        rows integer not null,
        swept text not null
    ) strict;
    create table lease (
        name text not null primary key,
        token integer not null,
        holder blob,
        boot text,
        expires_at integer,
        since integer,
        info text,
        revoked integer not null default 0
    ) strict, without rowid;
    insert into lease_floor values (1, 0, 0, '');
";

/// The kind of a file, before anything is written to it.
enum FileKind {
    Empty,
    Ours,
}

/// Checks that the file is ours or empty, and opens its write-ahead log. Waits for other processes
/// until `deadline`.
///
/// With a write-ahead log, readers and a writer do not block each other, and a commit is one write
/// and one sync.
///
/// # Errors
///
/// Invalid configuration if the file is another program's or of a newer layout; else as SQLite
/// says.
pub(crate) fn open_log(path: &Path, db: &Connection, deadline: Instant) -> Result<()> {
    // Two connections that switch to it at the same time get the error "busy" without any wait.
    retry_while_busy(deadline, || {
        read_kind(path, db)?;
        let mode: String = sql(path, db.query_row("pragma journal_mode = wal", [], |row| row.get(0)))?;
        if mode != "wal" {
            let text = format!("{} cannot have a write-ahead log on this file system ({mode})", path.display());
            return Err(RetryError::Final(Error::invalid_config(text)));
        }
        // A commit is on the disk before it is answered.
        sql(path, db.execute_batch("pragma synchronous = full"))?;
        // The first read of a write-ahead log creates the files beside the lock file.
        read_kind(path, db).map(drop)
    })
}

/// Creates the tables if the file is empty, and records this machine, boot and place. Waits for
/// other processes until `deadline`.
///
/// # Errors
///
/// Invalid configuration if the file is of another machine that is not to be adopted; else as
/// SQLite says.
pub(crate) fn initialize(
    path: &Path,
    db: &Connection,
    machine: &Machine,
    adopt: bool,
    deadline: Instant,
) -> Result<()> {
    retry_while_busy(deadline, || {
        if matches!(read_kind(path, db)?, FileKind::Ours) && is_recorded(path, db, machine)? {
            return Ok(());
        }
        sql(path, db.execute_batch("begin immediate"))?;
        let initialized = record(path, db, machine, adopt);
        let end = if initialized.is_ok() { "commit" } else { "rollback" };
        let ended = sql(path, db.execute_batch(end));
        if ended.is_err() && !db.is_autocommit() {
            let _ = db.execute_batch("rollback");
        }
        initialized.and(ended)
    })
}

/// The kind of the file, read in a transaction of its own. It only reads: the file may be another
/// program's.
fn read_kind(path: &Path, db: &Connection) -> Result<FileKind, RetryError> {
    // In one transaction, since another process may be creating the tables.
    sql(path, db.execute_batch("begin"))?;
    let found = kind_in_transaction(path, db);
    let ended = sql(path, db.execute_batch("rollback"));
    let found = found?;
    ended.map(|()| found)
}

/// The kind of the file, read inside a transaction.
fn kind_in_transaction(path: &Path, db: &Connection) -> Result<FileKind, RetryError> {
    let number = |pragma: &str| sql(path, db.query_row(pragma, [], |row| row.get::<_, i64>(0)));
    let application = number("pragma application_id")?;
    let version = number("pragma user_version")?;
    let mismatch = if application == APPLICATION_ID && version == SCHEMA_VERSION {
        return Ok(FileKind::Ours);
    } else if application == APPLICATION_ID && version > SCHEMA_VERSION {
        format!(
            "has the newer layout {version}, and this program knows {SCHEMA_VERSION}; use a newer program, or another file"
        )
    } else if application == APPLICATION_ID {
        format!("has the unknown layout {version}, and this program knows {SCHEMA_VERSION}; use another file")
    } else if application == 0 && version == 0 && number("select count(*) from sqlite_schema")? == 0 {
        return Ok(FileKind::Empty);
    } else {
        "is a database of another program; give the path of a lock file, or of one that does not exist yet".to_owned()
    };
    Err(RetryError::Final(Error::invalid_config(format!("{} {mismatch}", path.display()))))
}

/// True if the file was last used in this boot, and at this place.
fn is_recorded(path: &Path, db: &Connection, machine: &Machine) -> Result<bool, RetryError> {
    if !has_place_column(path, db)? {
        return Ok(false);
    }
    let last = last_used(path, db)?;
    Ok(last.boot == machine.boot && last.place == machine.place)
}

/// True if the table has a column for the place; the first version had none.
fn has_place_column(path: &Path, db: &Connection) -> Result<bool, RetryError> {
    let columns = "select count(*) from pragma_table_info('meta') where name = 'place'";
    sql(path, db.query_row(columns, [], |row| Ok(row.get::<_, i64>(0)? > 0)))
}

fn last_used(path: &Path, db: &Connection) -> Result<Machine, RetryError> {
    let read = |row: &rusqlite::Row<'_>| {
        let (id, boot, place): (Option<String>, String, Option<String>) = row.try_into()?;
        Ok(Machine { id: id.map(Into::into), boot: boot.into(), place: place.map(Into::into) })
    };
    sql(path, db.query_row("select machine, boot, place from meta where id = 1", [], read))
}

/// Creates the tables, or records this machine, boot and place, inside a write transaction.
fn record(path: &Path, db: &Connection, machine: &Machine, adopt: bool) -> Result<(), RetryError> {
    let (id, boot, place) = (machine.id.as_deref(), &*machine.boot, machine.place.as_deref());
    if let FileKind::Empty = kind_in_transaction(path, db)? {
        sql(path, db.execute_batch(SCHEMA))?;
        let meta = "insert into meta(id, realm, machine, boot, place) values (1, ?1, ?2, ?3, ?4)";
        sql(path, db.execute(meta, params![Realm::fresh("sqlite").as_str(), id, boot, place]))?;
        sql(
            path,
            db.execute_batch(&format!(
                "pragma application_id = {APPLICATION_ID}; pragma user_version = {SCHEMA_VERSION}"
            )),
        )?;
        return Ok(());
    }
    if !has_place_column(path, db)? {
        sql(path, db.execute_batch("alter table meta add column place text"))?;
    }
    let last = last_used(path, db)?;
    if machine.shares_clock_with(&last) {
        // A holder of an earlier boot died with it. The machine stays as recorded: containers of
        // one kernel may have other ids, or none.
        sql(path, db.execute("update meta set boot = ?1, place = ?2", [Some(boot), place]))?;
        return Ok(());
    }
    if !adopt {
        return Err(RetryError::Final(Error::invalid_config(foreign_machine(path, machine, &last))));
    }
    tracing::warn!(path = %path.display(), "adopting the lock file of another machine: a new realm begins, and all its leases end");
    sql(path, db.execute("update lease set holder = null where holder is not null", []))?;
    let meta = "update meta set realm = ?1, machine = ?2, boot = ?3, place = ?4";
    sql(path, db.execute(meta, params![Realm::fresh("sqlite").as_str(), id, boot, place]))?;
    Ok(())
}

fn foreign_machine(path: &Path, here: &Machine, last: &Machine) -> String {
    let id_text = |machine: &Machine| machine.id.as_deref().unwrap_or("none").to_owned();
    let copied = match (&here.id, &last.id) {
        (Some(_), Some(_)) => "",
        _ => ", or is a copy from before a reboot",
    };
    format!(
        "{} was last used on another machine (machine id {}, here {}){copied}, whose leases cannot be judged here; if no process uses it there any more, open it once with ?machine=adopt, which begins a new realm and ends all its leases",
        path.display(),
        id_text(last),
        id_text(here)
    )
}

/// The error of an attempt to open.
enum RetryError {
    /// Another process blocks access; the error if it does so until the deadline.
    Busy(Error),
    Final(Error),
}

fn sql<T>(path: &Path, result: rusqlite::Result<T>) -> Result<T, RetryError> {
    result.map_err(|failed| match error::is_busy(&failed) {
        true => RetryError::Busy(error::classify_open(path, failed)),
        false => RetryError::Final(error::classify_open(path, failed)),
    })
}

fn retry_while_busy<T>(deadline: Instant, mut attempt: impl FnMut() -> Result<T, RetryError>) -> Result<T> {
    let mut pause = Duration::from_micros(200);
    loop {
        match attempt() {
            Ok(done) => return Ok(done),
            Err(RetryError::Final(error)) => return Err(error),
            Err(RetryError::Busy(error)) if Instant::now() >= deadline => return Err(error),
            Err(RetryError::Busy(_)) => {}
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(5));
    }
}
