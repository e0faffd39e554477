//! `leasehold fence`: keeps late holders away from a resource.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use leasehold::{Fence, FencingToken, LockName, Pass, Realm};
use serde_json::json;

use crate::cli::{FenceAdopt, FenceCommand, FenceRaise, FenceRun, FenceShow};
use crate::failure::Failure;
use crate::supervise::{Job, Signals, Terms, supervise};
use crate::{output, store};

/// Does what the command line asks of a fence.
pub(crate) async fn run(command: FenceCommand) -> Result<ExitCode, Failure> {
    match command {
        FenceCommand::Run(args) => return write(args).await,
        FenceCommand::Raise(args) => raise(args)?,
        FenceCommand::Adopt(args) => adopt(args)?,
        FenceCommand::Show(args) => show(args)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a command that writes, while nobody else is admitted; a late holder is refused before it begins.
async fn write(args: FenceRun) -> Result<ExitCode, Failure> {
    let name = store::name(&given(args.name, "--name", "LEASEHOLD_NAME")?)?;
    let number = match args.token {
        Some(number) => number,
        None => number_in(&variable("--token", "LEASEHOLD_TOKEN")?)?,
    };
    let realm = Realm::new(utf8(&given(args.realm, "--realm", "LEASEHOLD_REALM")?)?);
    let fence = Fence::open(&args.file)?;
    let mut signals = Signals::new()?;
    let token = FencingToken::new(realm, number);
    let pass = tokio::select! {
        pass = fence.enter(&name, &token) => pass?,
        signal = signals.ending() => return Err(Failure::ended_by(signal)),
    };
    let job = Job::new(&args.command);
    // If we are killed the pass ends with us, so that the write has no grace.
    let terms = Terms { grace: Duration::ZERO, lead: Duration::ZERO };
    let ending = supervise(job, None, terms, &mut signals).await;
    drop::<Pass>(pass);
    ending?.code()
}

fn raise(args: FenceRaise) -> Result<(), Failure> {
    let name = store::name(&args.name)?;
    let fence = existing(&args.file)?;
    let realm = match args.realm.or_else(|| std::env::var_os("LEASEHOLD_REALM")) {
        Some(realm) => Realm::new(utf8(&realm)?),
        None => fence.realm()?.ok_or_else(|| {
            Failure::usage("the fence has seen no token, and so has no realm: name the token's with --realm")
        })?,
    };
    let token = FencingToken::new(realm, args.token);
    fence.raise(&name, &token)?;
    output::print(&format!("\"{name}\" is refused below {}", output::shown(&token.to_string())))
}

fn adopt(args: FenceAdopt) -> Result<(), Failure> {
    let fence = existing(&args.file)?;
    let realm = Realm::new(utf8(&args.realm)?);
    fence.adopt(&realm)?;
    output::print(&format!("tokens of {} are admitted from now on, and no others", output::shown(realm.as_str())))
}

fn show(args: FenceShow) -> Result<(), Failure> {
    let fence = existing(&args.file)?;
    let (realm, names) = (fence.realm()?, fence.list()?);
    if args.json {
        let name = |(name, token): &(LockName, FencingToken)| json!({ "name": name.as_str(), "token": token.number() });
        let names: Vec<_> = names.iter().map(name).collect();
        let realm = realm.as_ref().map(Realm::as_str);
        return output::print(&json!({ "realm": realm, "names": names }).to_string());
    }
    let Some(realm) = realm else { return output::print("no token was seen yet") };
    let mut lines = vec![format!("realm {}", output::shown(realm.as_str()))];
    lines.extend(names.iter().map(|(name, token)| format!("{}\t{}", output::shown(name.as_str()), token.number())));
    output::print(&lines.join("\n"))
}

/// The fence of an operator. A mistyped path makes no new one, which would admit everybody.
fn existing(file: &Path) -> Result<Fence, Failure> {
    if !file.exists() {
        return Err(Failure::config(format!("there is no fence {}", file.display())));
    }
    Ok(Fence::open(file)?)
}

fn given(option: Option<OsString>, name: &str, env: &str) -> Result<OsString, Failure> {
    option.map_or_else(|| variable(name, env), Ok)
}

fn variable(option: &str, env: &str) -> Result<OsString, Failure> {
    std::env::var_os(env).ok_or_else(|| {
        Failure::usage(format!("{option} is missing, and {env} is not set: is this run under a lock that fences?"))
    })
}

fn number_in(text: &OsStr) -> Result<u64, Failure> {
    let number = text.to_str().and_then(|text| text.parse().ok());
    number.ok_or_else(|| Failure::usage(format!("LEASEHOLD_TOKEN={} is no token's number", text.display())))
}

fn utf8(text: &OsStr) -> Result<&str, Failure> {
    text.to_str().filter(|text| !text.is_empty()).ok_or_else(|| Failure::usage(format!("{text:?} is no realm")))
}
