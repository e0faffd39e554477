//! The commands, one file each.

mod break_lock;
mod fence;
mod init;
mod list;
mod realm;
mod run;
mod status;
mod stores;

use std::process::ExitCode;

use leasehold::Locks;

use crate::cli::{Cli, Command};
use crate::failure::Failure;
use crate::{logs, store};

/// Does what the command line asks.
pub(crate) async fn run(cli: Cli) -> Result<ExitCode, Failure> {
    logs::begin(cli.verbose)?;
    let store = cli.store.as_deref();
    match cli.command {
        Command::Run(args) => return run::run(args, store).await,
        Command::Status(args) => status::run(args, store).await?,
        Command::List(args) => list::run(args, store).await?,
        Command::Break(args) => return break_lock::run(args, store).await,
        Command::Stores(args) => stores::run(args)?,
        Command::Fence(command) => return fence::run(command).await,
        Command::Init(args) => init::run(args, store).await?,
        Command::Realm(args) => realm::run(args, store).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The locks of the store that the command line names, for operators.
async fn locks(store: Option<&str>) -> Result<Locks, Failure> {
    Ok(leasehold::connect(store::url(store)?).await?)
}
