//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use leasehold::{Holder, Lock};

use crate::failure::Failure;

/// Holds a distributed lock around a command, and shows and breaks locks.
///
/// The store is --store, else LEASEHOLD_STORE, else an SQLite file in your state folder.
#[derive(Debug, Parser)]
#[command(name = "leasehold", version, arg_required_else_help = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// The store's URL, such as sqlite:/var/lib/app/locks.db; `leasehold stores` lists the kinds
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) store: Option<String>,
    /// Logs to standard error; twice for more. LEASEHOLD_LOG=debug does the same
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Holds a lock while a command runs, and stops the command when the lease is lost
    Run(Run),
    /// Shows who holds a lock
    Status(Status),
    /// Lists the locks that are held
    List(List),
    /// Takes a lock away from its holder
    Break(Break),
    /// Shows what each kind of store guarantees
    Stores(Stores),
    /// Makes what a store needs before it can be used, such as a table; changes nothing if that was done
    Init(Init),
    /// Shows the realm of the store's tokens, or begins a new one after a restore from backup
    Realm(Realm),
    /// Keeps late holders away from a resource, by the tokens of a lock
    #[command(subcommand, disable_help_subcommand = true)]
    Fence(FenceCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum FenceCommand {
    /// Runs a command that writes, unless a later holder was there; meant to be run under `leasehold run`
    Run(FenceRun),
    /// Refuses everything below a token, such as the one that `leasehold break` used up
    Raise(FenceRaise),
    /// Admits the tokens of another realm, and no others, after a store was swapped or restored
    Adopt(FenceAdopt),
    /// Shows the highest token of every name
    Show(FenceShow),
}

#[derive(Debug, Args)]
pub(crate) struct FenceRun {
    /// The fence's file, beside the resource; created if it is missing
    #[arg(long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The lock's name; by default LEASEHOLD_NAME
    #[arg(long)]
    pub(crate) name: Option<OsString>,
    /// The number of the holder's fencing token; by default LEASEHOLD_TOKEN
    #[arg(long, value_name = "NUMBER")]
    pub(crate) token: Option<u64>,
    /// The token's realm; by default LEASEHOLD_REALM
    #[arg(long)]
    pub(crate) realm: Option<OsString>,
    /// The command and its arguments
    #[arg(value_name = "COMMAND", last = true, required = true)]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct FenceRaise {
    /// The fence's file
    #[arg(long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The token's realm; by default LEASEHOLD_REALM, else the fence's
    #[arg(long)]
    pub(crate) realm: Option<OsString>,
    /// The lock's name
    #[arg(value_name = "NAME")]
    pub(crate) name: OsString,
    /// The number of the token
    #[arg(value_name = "TOKEN")]
    pub(crate) token: u64,
}

#[derive(Debug, Args)]
pub(crate) struct FenceAdopt {
    /// The fence's file
    #[arg(long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The realm, as `leasehold realm` shows it
    #[arg(value_name = "REALM")]
    pub(crate) realm: OsString,
}

#[derive(Debug, Args)]
pub(crate) struct FenceShow {
    /// The fence's file
    #[arg(long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Writes one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// How long the store keeps the lease if it is not renewed; others wait so long after a crash
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = ttl)]
    pub(crate) ttl: Duration,
    /// Waits for the lock for this long at most; by default without limit
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with = "try_once")]
    pub(crate) wait: Option<Duration>,
    /// Does not wait: ends with status 75 if the lock is held
    #[arg(long = "try")]
    pub(crate) try_once: bool,
    /// Refuses a store whose fencing tokens do not survive a crash, a power loss and a fail-over
    #[arg(long)]
    pub(crate) correctness: bool,
    /// The time between SIGTERM and SIGKILL when the lease is lost; by default a quarter of the TTL, 5s at most
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) grace: Option<Duration>,
    /// Free text that others see of the holder
    #[arg(long, value_name = "TEXT")]
    pub(crate) info: Option<String>,
    /// Says nothing while it waits
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// The lock's name
    #[arg(value_name = "NAME")]
    pub(crate) name: OsString,
    /// The command and its arguments
    #[arg(value_name = "COMMAND", last = true, required = true)]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Writes one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// The lock's name
    #[arg(value_name = "NAME")]
    pub(crate) name: OsString,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Writes a JSON array
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Break {
    /// Frees the name at once, although nothing but a fence excludes the evicted holder until its lease would have ended
    #[arg(long)]
    pub(crate) now: bool,
    /// Breaks the lock only if this holder has it, as `status --json` shows it
    #[arg(long, value_name = "HEX")]
    pub(crate) holder: Option<Holder>,
    /// Writes one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// The lock's name
    #[arg(value_name = "NAME")]
    pub(crate) name: OsString,
}

#[derive(Debug, Args)]
pub(crate) struct Stores {
    /// Writes a JSON array
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The store; by default that of --store or LEASEHOLD_STORE
    #[arg(value_name = "URL")]
    pub(crate) url: Option<String>,
    /// Only prints the statements, for those who run them by hand; asks no server
    #[arg(long)]
    pub(crate) print: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Realm {
    /// Begins a new realm, after the store's data was restored from a backup
    #[arg(long)]
    pub(crate) new: bool,
    /// Writes one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Reads the command line; `Err` if there is nothing more to do.
pub(crate) fn parse() -> Result<Cli, Result<ExitCode, Failure>> {
    Cli::try_parse().map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            Ok(ExitCode::SUCCESS)
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            Err(Failure::new(crate::failure::status::USAGE, ""))
        }
        _ => Err(Failure::usage(one_line(&error.render().to_string()))),
    })
}

/// The complaint of the parser without its page of advice, on one line.
fn one_line(text: &str) -> String {
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<_> = paragraph.lines().map(str::trim).collect();
    let line = words.join(" ");
    format!("{}; see leasehold --help", line.strip_prefix("error: ").unwrap_or(&line))
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; it takes a time such as 500ms, 30s or 1m 30s"))
}

fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = duration(text)?;
    if (<Lock>::MIN_TTL..=<Lock>::MAX_TTL).contains(&ttl) {
        return Ok(ttl);
    }
    Err("a TTL is 10ms to 30days".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_complaint_of_the_parser_is_one_line() {
        let error = Cli::try_parse_from(["leasehold", "run", "demo", "--ttl", "0", "--", "true"]).unwrap_err();
        let line = one_line(&error.render().to_string());
        assert!(line.contains("'0'") && line.contains("10ms to 30days") && !line.contains('\n'), "{line}");
    }

    #[test]
    fn the_command_keeps_its_options_to_itself() {
        let cli = Cli::try_parse_from(["leasehold", "run", "demo", "--", "ls", "--try", "-q"]).unwrap();
        let Command::Run(run) = cli.command else { panic!("not run") };
        assert_eq!(run.command, ["ls", "--try", "-q"]);
        assert!(!run.try_once && !run.quiet);
    }
}
