//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use leasehold::{Holder, Lock};

use crate::failure::Failure;

/// Holds a distributed lock around a command, and shows and breaks locks.
///
/// The store is --store, else LEASEHOLD_STORE, else an SQLite file in your state folder.
#[derive(Debug, Parser)]
#[command(name = "leasehold", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// The store's URL, such as sqlite:/var/lib/app/locks.db; `leasehold stores` lists the kinds
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) store: Option<String>,
    /// Logs to standard error what leasehold does; twice for more. LEASEHOLD_LOG=debug does the
    /// same
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
    /// Makes what a store needs before it can be used, such as a table; changes nothing if that was
    /// done
    Init(Init),
    /// Removes what the store keeps of names that nobody locks any more
    Prune(Prune),
    /// Shows the realm of the store's tokens, or begins a new one after a restore from backup
    Realm(Realm),
    /// Keeps late holders away from a resource, by the tokens of a lock
    #[command(subcommand)]
    Fence(FenceCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum FenceCommand {
    /// Runs a command that writes, unless a later holder was there; meant to be run under
    /// `leasehold run`
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
    /// Waits for other writers for this long at most; by default without limit
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) wait: Option<Duration>,
    /// Says nothing while it waits, nor about where the fence is
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// The command and its arguments, after `--` if it begins with -
    #[arg(value_name = "COMMAND", trailing_var_arg = true, required = true)]
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
    /// Raises it as far as that, although it cannot be lowered again
    #[arg(long)]
    pub(crate) force: bool,
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
    /// The time between SIGTERM and SIGKILL when the lease is lost; by default a quarter of the
    /// TTL, 5s at most
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) grace: Option<Duration>,
    /// Free text that others see of the holder
    #[arg(long, value_name = "TEXT")]
    pub(crate) info: Option<String>,
    /// Says nothing while it waits
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// The lock's name; one that begins with - stands between two `--`
    #[arg(value_name = "NAME")]
    pub(crate) name: OsString,
    /// The command and its arguments, after `--` if it begins with -
    #[arg(value_name = "COMMAND", trailing_var_arg = true, required = true)]
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
    /// Frees the name at once, although nothing but a fence excludes the evicted holder until its
    /// lease would have ended
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
pub(crate) struct Prune {
    /// The store; by default that of --store or LEASEHOLD_STORE
    #[arg(value_name = "URL")]
    pub(crate) url: Option<String>,
    /// For how long nobody has locked what is removed; by default prune_after of the URL, else
    /// 7days
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) idle: Option<Duration>,
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
    let mut words: Vec<_> = std::env::args_os().collect();
    remove_second_dashes(&mut words).map_err(Err)?;
    Cli::try_parse_from(words).map_err(|error| match error.kind() {
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

/// Of `run -- NAME -- COMMAND` the second `--` is none of the command's. With one `--` only, the
/// name was forgotten: the command's first word is not taken for it.
fn remove_second_dashes(words: &mut Vec<OsString>) -> Result<(), Failure> {
    let Some(dashes) = words.iter().position(|word| word == "--") else { return Ok(()) };
    let optional = |command: clap::Command| command.mut_args(|arg| arg.required(false));
    let before = Cli::command().mut_subcommand("run", optional).try_get_matches_from(&words[..dashes]);
    let nameless = before.is_ok_and(|before| match before.subcommand() {
        Some(("run", run)) => !run.contains_id("name"),
        _ => false,
    });
    if !nameless {
        return Ok(());
    }
    if words.get(dashes + 2).is_none_or(|word| word != "--") {
        return Err(Failure::usage("the lock's NAME is missing before --: run NAME -- COMMAND…; see leasehold --help"));
    }
    words.remove(dashes + 2);
    Ok(())
}

/// The complaint of the parser and its tips, without the usage, on one line.
fn one_line(text: &str) -> String {
    let (complaint, rest) = text.split_once("\n\n").unwrap_or((text, ""));
    let complaint = complaint.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    let tips = rest.lines().map(str::trim).filter(|line| line.starts_with("tip: "));
    let parts: Vec<_> = [complaint.strip_prefix("error: ").unwrap_or(&complaint)].into_iter().chain(tips).collect();
    format!("{}; see leasehold --help", parts.join("; "))
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
    fn a_tip_is_part_of_the_complaint() {
        let error = Cli::try_parse_from(["leasehold", "run", "--tri", "demo", "--", "true"]).unwrap_err();
        let line = one_line(&error.render().to_string());
        assert!(
            line.starts_with("unexpected argument '--tri' found; tip: a similar argument exists: '--try'; "),
            "{line}"
        );
        assert!(!line.contains('\n') && !line.contains("Usage"), "{line}");
    }

    fn run(words: &[&str]) -> Result<Run, String> {
        let mut words: Vec<_> = ["leasehold"].iter().chain(words).map(OsString::from).collect();
        remove_second_dashes(&mut words).map_err(|failure| format!("{failure:?}"))?;
        match Cli::try_parse_from(words).map_err(|error| error.to_string())?.command {
            Command::Run(run) => Ok(run),
            _ => panic!("not run"),
        }
    }

    #[test]
    fn the_command_keeps_its_options_to_itself() {
        for words in [
            &["run", "demo", "--", "ls", "--try", "-q"][..],
            &["run", "demo", "ls", "--try", "-q"],
            &["run", "--ttl", "3s", "demo", "--wait", "1s", "ls", "--try", "-q"],
            &["run", "--", "demo", "--", "ls", "--try", "-q"],
        ] {
            let run = run(words).unwrap();
            assert_eq!(
                (run.name.to_str(), run.command.as_slice()),
                (Some("demo"), ["ls", "--try", "-q"].map(OsString::from).as_slice())
            );
            assert!(!run.try_once && !run.quiet);
        }
        assert_eq!(run(&["run", "demo", "ls", "--", "x"]).unwrap().command, ["ls", "--", "x"]);
        assert_eq!(run(&["run", "demo", "--", "-x"]).unwrap().command, ["-x"]);
    }

    #[test]
    fn a_name_may_begin_with_a_dash_and_a_command_is_never_taken_for_one() {
        let dashed = run(&["run", "--try", "--", "-x", "--", "ls", "-l"]).unwrap();
        assert_eq!((dashed.name.to_str(), dashed.command.len()), (Some("-x"), 2));
        assert!(dashed.try_once);
        for words in [&["run", "--", "ls", "-l"][..], &["run", "--ttl", "3s", "--", "sh", "script"], &["run", "--"]] {
            let refused = run(words).unwrap_err();
            assert!(refused.contains("NAME is missing"), "{words:?}: {refused}");
        }
    }
}
