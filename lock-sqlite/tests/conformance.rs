//! The suite that every store must pass.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lock_conformance::{Deployment, Factory, Failure, async_trait};
use lock_core::{Fault, Faults, LockStore};
use lock_sqlite::{SqliteConfig, SqliteStore};
use tempfile::TempDir;

struct Sqlite;

struct Files {
    all: TempDir,
    /// The folder that is in use.
    current: Mutex<PathBuf>,
}

#[async_trait]
impl Factory for Sqlite {
    async fn deploy(&self) -> Result<Arc<dyn Deployment>, Failure> {
        let all = tempfile::tempdir()?;
        let current = all.path().join("0");
        std::fs::create_dir(&current)?;
        Ok(Arc::new(Files { all, current: Mutex::new(current) }))
    }

    /// Long compared with a sync of a shared disk.
    fn ttl(&self) -> Duration {
        Duration::from_millis(1200)
    }

    fn finding_codes(&self) -> &'static [&'static str] {
        SqliteStore::FINDING_CODES
    }

    fn faults(&self) -> Faults {
        Fault::Crash.into()
    }
}

impl Files {
    fn current(&self) -> PathBuf {
        self.current.lock().expect("no case panics while it has this").clone()
    }
}

#[async_trait]
impl Deployment for Files {
    async fn open(&self) -> Result<Arc<dyn LockStore>, Failure> {
        Ok(Arc::new(SqliteStore::open(SqliteConfig::new(self.current().join("locks.db"))).await?))
    }

    /// Leaves the files as a kill of every process would. Another program copies them, since a
    /// process that closes a file loses its own locks on it.
    async fn inflict(&self, fault: Fault) -> Result<(), Failure> {
        if fault != Fault::Crash {
            return Err(format!("{fault} cannot be made here").into());
        }
        let left = self.current();
        let number: u32 = left.file_name().and_then(|name| name.to_str()).unwrap_or_default().parse()?;
        let next = self.all.path().join((number + 1).to_string());
        copy(&left, &next)?;
        *self.current.lock().expect("no case panics while it has this") = next;
        Ok(())
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    let status = Command::new("cp").arg("-r").arg(from).arg(to).status()?;
    if status.success() { Ok(()) } else { Err(format!("cp: {status}").into()) }
}

fn main() -> ExitCode {
    lock_conformance::run(Sqlite)
}
