//! The layout of the file, and whose it is.

use std::path::Path;
use std::time::{Duration, Instant};

use lock_core::{Error, ErrorKind, Realm, Result};
use rusqlite::{Connection, params};

use crate::error;
use crate::machine::Machine;

/// What `PRAGMA application_id` says of our files: "leas".
const APPLICATION: i64 = 0x6c65_6173;
/// The layout that this program knows.
const VERSION: i64 = 1;

/// Free rows stay, so that their tokens go on rising; see the sweep in `tables.rs` for what happens to many of them.
const LAYOUT: &str = "
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

/// What a file is, before we write anything to it.
enum Found {
    Empty,
    Ours,
}

/// Checks that the file is ours or empty, and opens its write-ahead log. Waits for other processes until `until`.
///
/// A write-ahead log lets readers go on beside a writer, and a commit is one write and one sync.
///
/// # Errors
///
/// Invalid configuration if the file is another program's or of a newer layout; else as SQLite says.
pub(crate) fn open_log(path: &Path, db: &Connection, until: Instant) -> Result<()> {
    // Two connections that ask for it at once are told that the file is busy, without waiting.
    patiently(until, || {
        look(path, db)?;
        let mode: String = sql(path, db.query_row("pragma journal_mode = wal", [], |row| row.get(0)))?;
        if mode != "wal" {
            let text = format!("{} cannot have a write-ahead log on this file system ({mode})", path.display());
            return Err(Refusal::Final(Error::refused(ErrorKind::InvalidConfig, text)));
        }
        // A commit is on the disk before it is answered.
        sql(path, db.execute_batch("pragma synchronous = full"))?;
        // The first look into a write-ahead log makes the files beside the lock file.
        look(path, db).map(drop)
    })
}

/// Makes the layout if the file is empty, and records this machine, boot and place. Waits for other processes until
/// `until`.
///
/// # Errors
///
/// Invalid configuration if the file is of another machine that is not to be adopted; else as SQLite says.
pub(crate) fn settle(path: &Path, db: &Connection, machine: &Machine, adopt: bool, until: Instant) -> Result<()> {
    patiently(until, || {
        if matches!(look(path, db)?, Found::Ours) && is_recorded(path, db, machine)? {
            return Ok(());
        }
        sql(path, db.execute_batch("begin immediate"))?;
        let settled = record(path, db, machine, adopt);
        let end = if settled.is_ok() { "commit" } else { "rollback" };
        let ended = sql(path, db.execute_batch(end));
        if ended.is_err() && !db.is_autocommit() {
            let _ = db.execute_batch("rollback");
        }
        settled.and(ended)
    })
}

/// Looks at what the file is, outside of any transaction. Reads only: it may be somebody else's.
fn look(path: &Path, db: &Connection) -> Result<Found, Refusal> {
    // In one transaction, since another process may be making the layout.
    sql(path, db.execute_batch("begin"))?;
    let found = find(path, db);
    let ended = sql(path, db.execute_batch("rollback"));
    let found = found?;
    ended.map(|()| found)
}

/// Looks at what the file is, inside a transaction.
fn find(path: &Path, db: &Connection) -> Result<Found, Refusal> {
    let number = |pragma: &str| sql(path, db.query_row(pragma, [], |row| row.get::<_, i64>(0)));
    let application = number("pragma application_id")?;
    let version = number("pragma user_version")?;
    let wrong = if application == APPLICATION && version == VERSION {
        return Ok(Found::Ours);
    } else if application == APPLICATION && version > VERSION {
        format!(
            "has the newer layout {version}, and this program knows {VERSION}; use a newer program, or another file"
        )
    } else if application == APPLICATION {
        format!("has the unknown layout {version}, and this program knows {VERSION}; use another file")
    } else if application == 0 && version == 0 && number("select count(*) from sqlite_schema")? == 0 {
        return Ok(Found::Empty);
    } else {
        "is a database of another program; give the path of a lock file, or of one that does not exist yet".to_owned()
    };
    Err(Refusal::Final(Error::refused(ErrorKind::InvalidConfig, format!("{} {wrong}", path.display()))))
}

/// Whether the file was last used in this boot, and at this place.
fn is_recorded(path: &Path, db: &Connection, machine: &Machine) -> Result<bool, Refusal> {
    if !knows_places(path, db)? {
        return Ok(false);
    }
    let last = last_used(path, db)?;
    Ok(last.boot == machine.boot && last.place == machine.place)
}

/// Whether the layout has a column for the place; the first version had none.
fn knows_places(path: &Path, db: &Connection) -> Result<bool, Refusal> {
    let columns = "select count(*) from pragma_table_info('meta') where name = 'place'";
    sql(path, db.query_row(columns, [], |row| Ok(row.get::<_, i64>(0)? > 0)))
}

fn last_used(path: &Path, db: &Connection) -> Result<Machine, Refusal> {
    let read = |row: &rusqlite::Row<'_>| {
        let (id, boot, place): (Option<String>, String, Option<String>) = row.try_into()?;
        Ok(Machine { id: id.map(Into::into), boot: boot.into(), place: place.map(Into::into) })
    };
    sql(path, db.query_row("select machine, boot, place from meta where id = 1", [], read))
}

/// Inside a write transaction: makes the layout, or records this machine, boot and place.
fn record(path: &Path, db: &Connection, machine: &Machine, adopt: bool) -> Result<(), Refusal> {
    let (id, boot, place) = (machine.id.as_deref(), &*machine.boot, machine.place.as_deref());
    if let Found::Empty = find(path, db)? {
        sql(path, db.execute_batch(LAYOUT))?;
        let meta = "insert into meta(id, realm, machine, boot, place) values (1, ?1, ?2, ?3, ?4)";
        sql(path, db.execute(meta, params![Realm::fresh("sqlite").as_str(), id, boot, place]))?;
        sql(
            path,
            db.execute_batch(&format!("pragma application_id = {APPLICATION}; pragma user_version = {VERSION}")),
        )?;
        return Ok(());
    }
    if !knows_places(path, db)? {
        sql(path, db.execute_batch("alter table meta add column place text"))?;
    }
    let last = last_used(path, db)?;
    if machine.judges(&last) {
        // Who held a lease in an earlier boot died with it. One kernel's containers leave the machine as it is; a
        // container without an id learns it, and leaves it too.
        sql(path, db.execute("update meta set boot = ?1, place = ?2", [Some(boot), place]))?;
        return Ok(());
    }
    if !adopt {
        return Err(Refusal::Final(Error::refused(ErrorKind::InvalidConfig, foreign(path, machine, &last))));
    }
    tracing::warn!(path = %path.display(), "adopting the lock file of another machine: a new realm begins, and all its leases end");
    sql(path, db.execute("update lease set holder = null where holder is not null", []))?;
    let meta = "update meta set realm = ?1, machine = ?2, boot = ?3, place = ?4";
    sql(path, db.execute(meta, params![Realm::fresh("sqlite").as_str(), id, boot, place]))?;
    Ok(())
}

fn foreign(path: &Path, here: &Machine, last: &Machine) -> String {
    let shown = |machine: &Machine| machine.id.as_deref().unwrap_or("none").to_owned();
    let copied = match (&here.id, &last.id) {
        (Some(_), Some(_)) => "",
        _ => ", or is a copy from before a reboot",
    };
    format!(
        "{} was last used on another machine (machine id {}, here {}){copied}, whose leases cannot be judged here; if no process uses it there any more, open it once with ?machine=adopt, which begins a new realm and ends all its leases",
        path.display(),
        shown(last),
        shown(here)
    )
}

/// Why opening does not go on.
enum Refusal {
    /// Another process is in the way; the error if it stays there.
    Busy(Error),
    Final(Error),
}

fn sql<T>(path: &Path, result: rusqlite::Result<T>) -> Result<T, Refusal> {
    result.map_err(|failed| match error::is_busy(&failed) {
        true => Refusal::Busy(error::of_opening(path, failed)),
        false => Refusal::Final(error::of_opening(path, failed)),
    })
}

fn patiently<T>(until: Instant, mut attempt: impl FnMut() -> Result<T, Refusal>) -> Result<T> {
    let mut pause = Duration::from_micros(200);
    loop {
        match attempt() {
            Ok(done) => return Ok(done),
            Err(Refusal::Final(error)) => return Err(error),
            Err(Refusal::Busy(error)) if Instant::now() >= until => return Err(error),
            Err(Refusal::Busy(_)) => {}
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(5));
    }
}
