//! `leasehold fence`: keeps late holders away from a resource.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use leasehold::{Fence, FencingToken, Filesystem, LockName, Pass, Realm};
use serde_json::json;

use crate::cli::{FenceAdopt, FenceCommand, FenceRaise, FenceRun, FenceShow};
use crate::failure::{Failure, status};
use crate::supervise::{Job, Signals, StopPolicy, supervise};
use crate::{output, store};

/// Does what the command line asks of a fence.
pub(crate) async fn run(command: FenceCommand) -> Result<ExitCode, Failure> {
    match command {
        FenceCommand::Run(args) => return run_writer(args).await,
        FenceCommand::Raise(args) => raise(args)?,
        FenceCommand::Adopt(args) => adopt(args)?,
        FenceCommand::Show(args) => show(args)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a command that writes, while nobody else is admitted; a late holder is refused before it
/// begins.
async fn run_writer(args: FenceRun) -> Result<ExitCode, Failure> {
    let name = store::name(&option_or_variable(args.name, "--name", "LEASEHOLD_NAME")?)?;
    let number = match args.token {
        Some(number) => number,
        None => parse_token(&variable("--token", "LEASEHOLD_TOKEN")?)?,
    };
    let realm = Realm::new(utf8(&option_or_variable(args.realm, "--realm", "LEASEHOLD_REALM")?)?);
    let fence = Fence::open(&args.file)?;
    if !args.quiet
        && let Some(warning) = warning(&fence)
    {
        output::print_notice(&format!("the fence {} {warning}", args.file.display()));
    }
    let mut signals = Signals::new()?;
    let token = FencingToken::new(realm, number);
    let pass = tokio::select! {
        pass = enter(&fence, &name, &token, &args.file, args.wait, args.quiet) => pass?,
        signal = signals.next_terminating() => return Err(Failure::ended_by(signal)),
    };
    let job = Job::new(&args.command);
    // If we are killed the pass ends with us, so that the write has no grace.
    let policy = StopPolicy { grace: Duration::ZERO, lead: Duration::ZERO };
    let ending = supervise(job, None, policy, &mut signals).await;
    drop::<Pass>(pass);
    ending?.code()
}

/// What is wrong with the place of a fence, if something is.
fn warning(fence: &Fence) -> Option<String> {
    match fence.filesystem()? {
        Filesystem::Memory => Some(
            "is in memory, or in a container's own layers: if the power fails it forgets, and admits old holders; put it on a disk"
                .to_owned(),
        ),
        Filesystem::Shared(name) => {
            Some(format!("is on {name}: two machines may not exclude each other there; put it on a local disk"))
        }
        Filesystem::Disk => None,
    }
}

/// Enters as soon as nobody else has a pass, and says if that takes long.
async fn enter(
    fence: &Fence,
    name: &LockName,
    token: &FencingToken,
    file: &Path,
    wait: Option<Duration>,
    quiet: bool,
) -> Result<Pass, Failure> {
    let mut entering = std::pin::pin!(fence.enter(name, token));
    let mut limit = std::pin::pin!(async {
        match wait {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    });
    let mut announce_after = std::pin::pin!(tokio::time::sleep(Duration::from_secs(1)));
    let mut is_announced = quiet;
    loop {
        tokio::select! {
            biased;
            pass = &mut entering => return Ok(pass?),
            () = &mut limit => {
                let waited = output::format_duration(wait.unwrap_or_default());
                let text = format!("the fence {} was not free within {waited}: another writes", file.display());
                return Err(Failure::new(status::NOT_FREE, text));
            }
            () = &mut announce_after, if !is_announced => {
                is_announced = true;
                output::print_notice(&format!("waiting for the fence {}: another writes", file.display()));
            }
        }
    }
}

fn raise(args: FenceRaise) -> Result<(), Failure> {
    let name = store::name(&args.name)?;
    let fence = Fence::open_existing(&args.file)?;
    let realm = match args.realm.or_else(|| std::env::var_os("LEASEHOLD_REALM")) {
        Some(realm) => Realm::new(utf8(&realm)?),
        None => fence.realm()?.ok_or_else(|| {
            Failure::usage("the fence has seen no token, and so has no realm: name the token's with --realm")
        })?,
    };
    let token = FencingToken::new(realm, args.token);
    if !args.force {
        check_height(&fence, &name, &token)?;
    }
    fence.raise(&name, &token)?;
    output::print(&format!("\"{name}\" is refused below {}", output::escape(&token.to_string())))
}

/// Checks that a raise is no slip of the keys, since there is no way back: another digit makes a
/// number ten times as large.
fn check_height(fence: &Fence, name: &LockName, token: &FencingToken) -> Result<(), Failure> {
    let seen = match fence.highest(name)? {
        Some(highest) => Some((name.clone(), highest)),
        None => fence.list()?.into_iter().max_by_key(|(_, highest)| highest.number()),
    };
    let Some((of, highest)) = seen.filter(|(_, highest)| highest.realm() == token.realm()) else { return Ok(()) };
    let (number, highest) = (token.number(), highest.number());
    if number / 10 < highest || number - highest <= 1_000 {
        return Ok(());
    }
    let of = if of == *name { String::new() } else { format!(", of \"{of}\"") };
    Err(Failure::usage(format!(
        "{number} is far above the highest token that the fence has seen, {highest}{of}: every holder below it would be refused for ever; if it is right, say --force"
    )))
}

fn adopt(args: FenceAdopt) -> Result<(), Failure> {
    let fence = Fence::open_existing(&args.file)?;
    let realm = Realm::new(utf8(&args.realm)?);
    fence.adopt(&realm)?;
    output::print(&format!("tokens of {} are admitted from now on, and no others", output::escape(realm.as_str())))
}

fn show(args: FenceShow) -> Result<(), Failure> {
    let fence = Fence::open_existing(&args.file)?;
    let (realm, names) = (fence.realm()?, fence.list()?);
    if args.json {
        let name = |(name, token): &(LockName, FencingToken)| json!({ "name": name.as_str(), "token": token.number() });
        let names: Vec<_> = names.iter().map(name).collect();
        let realm = realm.as_ref().map(Realm::as_str);
        return output::print(&json!({ "realm": realm, "names": names }).to_string());
    }
    let Some(realm) = realm else { return output::print("no token was seen yet") };
    let mut lines = vec![format!("realm {}", output::escape(realm.as_str()))];
    lines.extend(names.iter().map(|(name, token)| format!("{}\t{}", output::escape(name.as_str()), token.number())));
    output::print(&lines.join("\n"))
}

fn option_or_variable(option: Option<OsString>, name: &str, env: &str) -> Result<OsString, Failure> {
    option.map_or_else(|| variable(name, env), Ok)
}

fn variable(option: &str, env: &str) -> Result<OsString, Failure> {
    std::env::var_os(env).ok_or_else(|| {
        Failure::usage(format!("{option} is missing, and {env} is not set: is this run under a lock that fences?"))
    })
}

fn parse_token(text: &OsStr) -> Result<u64, Failure> {
    let number = text.to_str().and_then(|text| text.parse().ok());
    number.ok_or_else(|| Failure::usage(format!("LEASEHOLD_TOKEN={} is no token's number", text.display())))
}

fn utf8(text: &OsStr) -> Result<&str, Failure> {
    text.to_str().filter(|text| !text.is_empty()).ok_or_else(|| Failure::usage(format!("{text:?} is no realm")))
}
