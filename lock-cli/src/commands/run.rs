//! `leasehold run`: holds a lock while a command runs.

use std::process::ExitCode;
use std::time::Duration;

use leasehold::{
    Connect, Error, ErrorKind, FencedGuard, FencingToken, Guard, LockGuard, LockName, Locks, LossReason, Validity,
};

use crate::cli::Run;
use crate::failure::{self, Failure, status};
use crate::supervise::{Ending, Job, Signals, StopPolicy, StopReason, supervise};
use crate::waiting_line::WaitingLine;
use crate::{output, store};

/// Time limit for releases at the end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// Holds the lock while the command runs.
pub(crate) async fn run(args: Run, url: Option<&str>) -> Result<ExitCode, Failure> {
    let name = store::name(&args.name)?;
    let grace = grace(&args)?;
    let mut signals = Signals::new()?;
    let url = store::url(url)?;
    let mut connect = leasehold::connect(&url);
    if let Some(info) = &args.info {
        connect = connect.holder_info(info);
    }
    if args.correctness {
        let locks = connect_or_signal(connect.for_correctness(), &mut signals).await?;
        hold(&locks, &name, &args, grace, &mut signals, FencedGuard::into_parts).await
    } else {
        let locks = connect_or_signal(connect, &mut signals).await?;
        store::require_persistent(&url)?;
        let with_token = |guard: LockGuard| {
            let token = guard.token_if_any().cloned();
            (guard, token)
        };
        hold(&locks, &name, &args, grace, &mut signals, with_token).await
    }
}

/// The time between SIGTERM and SIGKILL. With more than half of the TTL the command would get
/// SIGTERM although the first renewals may still succeed.
fn grace(args: &Run) -> Result<Duration, Failure> {
    let default = (args.ttl / 4).min(Duration::from_secs(5));
    match args.grace {
        Some(grace) if grace > args.ttl / 2 => {
            let text =
                format!("--grace {} is not accepted: it is half of --ttl at most", output::format_duration(grace));
            Err(Failure::usage(text))
        }
        grace => Ok(grace.unwrap_or(default)),
    }
}

async fn connect_or_signal<G: Guard>(connect: Connect<G>, signals: &mut Signals) -> Result<Locks<G>, Failure> {
    tokio::select! {
        locks = connect => Ok(locks?),
        signal = signals.next_terminating() => Err(Failure::ended_by(signal)),
    }
}

async fn hold<G: Guard, T: Into<Option<FencingToken>>>(
    locks: &Locks<G>,
    name: &LockName,
    args: &Run,
    grace: Duration,
    signals: &mut Signals,
    parts: impl FnOnce(G) -> (LockGuard, T),
) -> Result<ExitCode, Failure> {
    let result = match acquire(locks, name, args, signals).await {
        Ok(guard) => {
            let (guard, token) = parts(guard);
            run_held(guard, token.into(), args, grace, signals).await
        }
        Err(failure) => Err(failure),
    };
    // Abandoned requests are withdrawn before the process ends.
    if tokio::time::timeout(CLOSE_TIMEOUT, locks.close()).await.is_err() {
        output::print_notice(&format!(
            "\"{name}\" may stay held for up to {}: giving it back took too long",
            output::format_duration(args.ttl)
        ));
    }
    result
}

async fn acquire<G: Guard>(locks: &Locks<G>, name: &LockName, args: &Run, signals: &mut Signals) -> Result<G, Failure> {
    let mut line = WaitingLine::new(name, args.quiet);
    let ahead = line.ahead();
    let mut lock = locks.lock(name).ttl(args.ttl).on_wait(move |by| ahead.set(by));
    if args.try_once {
        return tokio::select! {
            guard = lock.try_acquire() => match guard? {
                Some(guard) => Ok(guard),
                None => Err(contended(locks, name).await),
            },
            signal = signals.next_terminating() => Err(Failure::ended_by(signal)),
        };
    }
    if let Some(limit) = args.wait {
        lock = lock.wait(limit);
    }
    let mut acquiring = std::pin::pin!(lock.acquire());
    let mut ticks = tokio::time::interval(WaitingLine::REDRAW_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            guard = &mut acquiring => return Ok(guard?),
            signal = signals.next_terminating() => return Err(Failure::ended_by(signal)),
            _ = ticks.tick() => line.draw(),
        }
    }
}

/// The failure of a try: names the holder, if it can be read.
async fn contended<G: Guard>(locks: &Locks<G>, name: &LockName) -> Failure {
    let holder = locks.inspect(name).await.ok().and_then(|mut holders| holders.pop());
    let by = holder.map(|by| format!(" by {by}")).unwrap_or_default();
    Failure::new(status::NOT_FREE, format!("\"{name}\" is held{by}"))
}

/// The job, with the variables that describe the lock.
fn job_for(args: &Run, guard: &LockGuard, token: Option<&FencingToken>) -> Job {
    let job = Job::new(&args.command)
        .env("LEASEHOLD_NAME", guard.name().as_str())
        .env("LEASEHOLD_HOLDER", guard.holder().to_string());
    // An outer `leasehold run` may have set these, for another lock.
    match token {
        Some(token) => {
            job.env("LEASEHOLD_TOKEN", token.number().to_string()).env("LEASEHOLD_REALM", token.realm().as_str())
        }
        None => job.env_remove("LEASEHOLD_TOKEN").env_remove("LEASEHOLD_REALM"),
    }
}

async fn run_held(
    guard: LockGuard,
    token: Option<FencingToken>,
    args: &Run,
    grace: Duration,
    signals: &mut Signals,
) -> Result<ExitCode, Failure> {
    let job = job_for(args, &guard, token.as_ref());
    let validity = guard.validity();
    let ending = supervise(job, Some(&validity), StopPolicy::new(validity.ttl(), grace), signals).await;
    let loss = validity.check().err();
    let renewal = validity.renewal_failure();
    let released = guard.release().await;
    let lost = |why: &str| {
        let text = format!("the lease on \"{}\" is lost, and the command was stopped: {why}", validity.name());
        Failure::new(status::LOST, text)
    };
    match ending? {
        Ending::Stopped(StopReason::OuterEnds) => Ending::Stopped(StopReason::OuterEnds).code(),
        Ending::Stopped(StopReason::NotRenewed(renewal)) => {
            Err(lost(&describe_loss(loss.unwrap_or(LossReason::Expired), renewal)))
        }
        Ending::Stopped(why) => {
            Err(lost(&loss.map_or_else(|| why.to_string(), |reason| describe_loss(reason, renewal))))
        }
        ending => {
            check_release(released, &validity, renewal)?;
            ending.code()
        }
    }
}

/// The reason of a loss, with the failure of the last renewal where that explains it.
fn describe_loss(reason: LossReason, renewal: Option<Error>) -> String {
    match renewal.filter(|_| matches!(reason, LossReason::Expired | LossReason::NotHeld)) {
        Some(error) => format!("{reason}; the last renewal failed: {}", failure::with_causes(&error)),
        None => reason.to_string(),
    }
}

/// Fails if the lease was lost before the release, and prints a notice if the outcome of the
/// release is unknown.
fn check_release(released: Result<(), Error>, validity: &Validity, renewal: Option<Error>) -> Result<(), Failure> {
    let Err(error) = released else { return Ok(()) };
    if error.kind() == ErrorKind::Lost {
        let why = error.loss().map_or_else(|| error.to_string(), |reason| describe_loss(reason, renewal));
        let text = format!("the lease on \"{}\" was lost before the command ended: {why}", validity.name());
        return Err(Failure::new(status::LOST, text));
    }
    output::print_notice(&format!(
        "whether \"{}\" was given back is unknown, it may stay held for up to {}: {error}",
        validity.name(),
        output::format_duration(validity.ttl())
    ));
    Ok(())
}
