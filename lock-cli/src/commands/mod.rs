//! The commands, one file each.

mod break_lock;
mod fence;
mod init;
mod list;
mod prune;
mod realm;
mod run;
mod status;
mod stores;

use std::process::ExitCode;
use std::sync::OnceLock;

use leasehold::Locks;

use crate::cli::{Cli, Command};
use crate::failure::Failure;
use crate::{logs, store};

/// The locks that an operator's command has opened.
static OPENED: OnceLock<Locks> = OnceLock::new();

/// Does what the command line asks.
pub(crate) async fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let ended = dispatch(cli).await;
    if let Some(locks) = OPENED.get() {
        // A file is left whole by itself.
        locks.close().await;
    }
    ended
}

async fn dispatch(cli: Cli) -> Result<ExitCode, Failure> {
    logs::init(cli.verbose)?;
    let store = cli.store.as_deref();
    match cli.command {
        Command::Run(args) => return run::run(args, store).await,
        Command::Status(args) => status::run(args, store).await?,
        Command::List(args) => list::run(args, store).await?,
        Command::Break(args) => return break_lock::run(args, store).await,
        Command::Stores(args) => stores::run(args)?,
        Command::Fence(command) => return fence::run(command).await,
        Command::Init(args) => init::run(args, store).await?,
        Command::Prune(args) => prune::run(args, store).await?,
        Command::Realm(args) => realm::run(args, store).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The locks of the store that the command line names, for operators.
async fn locks(store: Option<&str>) -> Result<Locks, Failure> {
    let named = store::configured_url(store)?;
    let mut connect = leasehold::connect(store::url(store)?);
    if named.is_some() {
        // A mistyped path would make an empty store, where every lock is free. Who names none has
        // mistyped nothing.
        connect = connect.existing();
    }
    let locks = connect.await?;
    if let Some(named) = named {
        store::require_persistent(&named)?;
    }
    Ok(OPENED.get_or_init(|| locks).clone())
}
