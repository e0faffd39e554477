//! The watchdog: starts the command, and stops it in time.

use std::ffi::{OsStr, OsString};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode};
use std::time::Duration;

use rustix::fs::{Access, access};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, getpid, kill_process_group, waitid};

use super::deadline_file::{DeadlineFile, OuterDeadline};
use super::frame::{FRAME, Link, Order, Report};
use super::{ENDING, InheritedMask, Signals, Terms, boot_time, descendants};
use crate::failure::Failure;

/// How often the command is looked at without being told anything: a signal may be missed.
const LOOK: Duration = Duration::from_secs(1);

/// How often what was killed is looked for again, until nothing is left.
const AGAIN: Duration = Duration::from_millis(5);

/// The first argument of a watchdog.
const MARK: &str = "--leasehold-watchdog";

/// What a watchdog is started with.
#[derive(Debug)]
pub(crate) struct WatchdogOrder {
    terms: Terms,
    command: Vec<OsString>,
}

impl WatchdogOrder {
    /// The order in these arguments, if they are a watchdog's.
    pub(crate) fn from_args(args: impl Iterator<Item = OsString>) -> Option<WatchdogOrder> {
        let mut args = args.skip(1);
        if args.next()?.as_bytes() != MARK.as_bytes() {
            return None;
        }
        let mut nanos = || args.next()?.to_str()?.parse().ok().map(Duration::from_nanos);
        let terms = Terms { grace: nanos()?, lead: nanos()? };
        let command: Vec<_> = args.collect();
        (!command.is_empty()).then_some(WatchdogOrder { terms, command })
    }

    /// The arguments that bring a watchdog this order.
    pub(crate) fn args(terms: Terms, command: &[OsString]) -> impl Iterator<Item = OsString> {
        let nanos = |time: Duration| OsString::from(time.as_nanos().to_string());
        [MARK.into(), nanos(terms.grace), nanos(terms.lead)].into_iter().chain(command.iter().cloned())
    }
}

/// Is the watchdog: starts the command when the supervisor says so, and stops it before its lease ends, or when the
/// supervisor has gone.
pub(crate) async fn watch(order: WatchdogOrder) -> Result<ExitCode, Failure> {
    let failed = |error: io::Error| Failure::system(format!("the watchdog cannot run: {error}"));
    // `pkill leasehold` shall find the supervisor, and not whom it needs to be stopped in time.
    let _ = rustix::thread::set_name(c"lock-watchdog");
    // It receives what would end it and does nothing then: it ends after the command does.
    let deaf = Signals::new()?;
    let mut children = Signals::of_children().map_err(failed)?;
    descendants::adopt();
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().map_err(failed)?);
    let Some(Beginning { limit, streams }) = begin(&socket).map_err(failed)? else { return Ok(ExitCode::SUCCESS) };
    let mut link = Link::new(socket).map_err(failed)?;

    let mut watch = match Watch::start(&order, limit, streams, deaf.inherited()) {
        Ok(watch) => watch,
        Err(error) => {
            link.send(Report::NotStarted(error.raw_os_error().unwrap_or_default()).to_frame());
            return Ok(ExitCode::SUCCESS);
        }
    };
    link.send(Report::Started(watch.group.as_raw_nonzero().get()).to_frame());
    loop {
        // What was told comes first: after a pause of this process the deadlines that it knows are old.
        tokio::select! {
            biased;
            frame = link.next() => match frame.map(Order::from_frame) {
                Some(Ok(Order::Extend(deadline))) => watch.extend(deadline),
                Some(Ok(Order::Stop)) => watch.stop_now(&link),
                Some(Ok(Order::Begin(_))) | Some(Err(_)) => {}
                Some(Ok(Order::Goodbye)) => return Ok(ExitCode::SUCCESS),
                None if watch.told => return Ok(ExitCode::SUCCESS),
                None => {
                    watch.stop_now(&link);
                    return watch.alone(&link, &mut children).await;
                }
            },
            _ = children.recv() => watch.look(&link),
            () = watch.due() => watch.act(&link),
            () = tokio::time::sleep(LOOK) => watch.look(&link),
        }
    }
}

/// What a watchdog begins with.
struct Beginning {
    limit: Limit,
    streams: [OwnedFd; 3],
}

/// Waits for the order to begin and what comes along; `None` if the supervisor has gone before.
fn begin(socket: &UnixStream) -> io::Result<Option<Beginning>> {
    let mut frame = [0; FRAME];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut frame)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?.bytes;
    if received == 0 {
        return Ok(None);
    }
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let outer = (descriptors.len() == 4).then(|| descriptors.pop()).flatten();
    let outer = outer.and_then(|file| OuterDeadline::from_file(file.into()));
    let streams = descriptors.try_into().map_err(|_| invalid())?;
    match (received, Order::from_frame(frame)?) {
        (FRAME, Order::Begin(deadline)) => Ok(Some(Beginning { limit: Limit { deadline, outer }, streams })),
        _ => Err(invalid()),
    }
}

/// Until when the command may run: until its lease ends, and that of the `leasehold run` around it.
#[derive(Debug)]
struct Limit {
    deadline: u64,
    outer: Option<OuterDeadline>,
}

impl Limit {
    /// When the command is asked to end.
    fn ask_at(&self, terms: Terms) -> u64 {
        let outer = self.outer.as_ref().map_or(u64::MAX, |outer| outer.until().saturating_sub(outer.lead()));
        self.deadline.saturating_sub(nanos(terms.grace.max(terms.lead))).min(outer)
    }

    /// When it is killed at the latest.
    fn kill_at(&self, terms: Terms) -> u64 {
        self.deadline.saturating_sub(nanos(terms.lead)).min(self.outer())
    }

    fn outer(&self) -> u64 {
        self.outer.as_ref().map_or(u64::MAX, OuterDeadline::until)
    }
}

/// The command, and what is to happen to it.
#[derive(Debug)]
struct Watch {
    terms: Terms,
    group: Pid,
    limit: Limit,
    /// Tells a `leasehold run` inside the command when it is killed at the latest.
    told_inside: Option<DeadlineFile>,
    /// Set once the command is being stopped: it is never taken back. When SIGKILL comes, or comes again.
    kill_at: Option<u64>,
    /// By then what was killed has ended, or the system does not let it.
    gone_by: Option<u64>,
    /// How the command itself has ended.
    end: Option<Report>,
    /// The supervisor was told of the end. Who is left then is the user's.
    told: bool,
}

impl Watch {
    /// Starts the command, in a group of its own from its first moment.
    fn start(order: &WatchdogOrder, limit: Limit, streams: [OwnedFd; 3], mask: &InheritedMask) -> io::Result<Watch> {
        if boot_time::until(limit.kill_at(order.terms)).is_zero() {
            return Err(rustix::io::Errno::TIMEDOUT.into());
        }
        let told_inside = if limit.deadline == u64::MAX { None } else { DeadlineFile::new(nanos(order.terms.lead)) };
        let group = getpid();
        let (kill_at, gone_by, end, told) = (None, None, None, false);
        let mut watch = Watch { terms: order.terms, group, limit, told_inside, kill_at, gone_by, end, told };
        watch.tell_inside();
        let child = spawn(&order.command, &streams, watch.told_inside.as_ref(), mask)?;
        // It is never waited for through this handle: reaping it would free the group's id.
        watch.group = Pid::from_child(&child);
        Ok(watch)
    }

    /// Completes when there is something to do; never by itself after the end.
    async fn due(&self) {
        if self.told {
            return std::future::pending().await;
        }
        loop {
            let at = self.kill_at.unwrap_or_else(|| self.limit.ask_at(self.terms));
            let left = boot_time::until(at);
            if left.is_zero() {
                return;
            }
            // Timers sleep through a suspend of the machine, and the clock does not.
            tokio::time::sleep(left.min(LOOK)).await;
        }
    }

    fn act(&mut self, link: &Link) {
        if self.kill_at.is_none() {
            return self.stop_at(link, self.last_moment());
        }
        let _ = kill_process_group(self.group, Signal::KILL);
        descendants::kill(getpid(), &[]);
        let now = boot_time::now();
        self.gone_by.get_or_insert(now.saturating_add(nanos(ENDING)));
        self.kill_at = Some(now.saturating_add(nanos(AGAIN)));
        self.look(link);
    }

    /// When SIGKILL comes at the latest.
    fn last_moment(&self) -> u64 {
        self.limit.kill_at(self.terms)
    }

    fn extend(&mut self, deadline: u64) {
        self.limit.deadline = deadline;
        self.tell_inside();
    }

    /// A `leasehold run` inside the command stops its own earlier by the lead than it is killed itself: so it can give its
    /// lock back.
    fn tell_inside(&self) {
        if let Some(file) = &self.told_inside {
            let kill_at = self.last_moment().min(self.kill_at.unwrap_or(u64::MAX));
            file.write(kill_at.saturating_sub(nanos(self.terms.lead)));
        }
    }

    /// Stops the command: SIGTERM now, SIGKILL after the grace, and before the deadline in any case.
    fn stop_now(&mut self, link: &Link) {
        self.stop_at(link, self.last_moment().min(boot_time::now().saturating_add(nanos(self.terms.grace))));
    }

    fn stop_at(&mut self, link: &Link, kill_at: u64) {
        if self.end.is_some() || self.kill_at.is_some() {
            return;
        }
        let by_outer = self.limit.outer() < self.limit.deadline.saturating_sub(nanos(self.terms.lead));
        self.kill_at = Some(kill_at);
        self.tell_inside();
        link.send(Report::Stopping { by_outer }.to_frame());
        let _ = kill_process_group(self.group, Signal::TERM);
        // A stopped process handles no signal but this one.
        let _ = kill_process_group(self.group, Signal::CONT);
        descendants::ask_to_end(getpid(), self.group);
    }

    /// Looks how the command is. It stays unreaped, and so the group's id stays its own.
    fn look(&mut self, link: &Link) {
        descendants::reap(&[self.group]);
        if self.told {
            return;
        }
        self.tell_inside();
        let wait = |options| waitid(WaitId::Pid(self.group), options | WaitIdOptions::NOHANG).ok().flatten();
        if let Some(status) = wait(WaitIdOptions::STOPPED).and_then(|status| status.stopping_signal()) {
            link.send(Report::Suspended(status).to_frame());
        }
        if self.end.is_none() {
            self.end = wait(WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).map(|status| end_of(&status));
        }
        if let Some(end) = self.end.filter(|_| self.may_tell()) {
            if let Some(file) = self.told_inside.as_ref().filter(|_| self.kill_at.is_none()) {
                file.write(u64::MAX);
            }
            self.told = true;
            link.send(end.to_frame());
        }
    }

    /// Whether the end of the command is all. What has to be stopped has ended when nothing is left of it.
    fn may_tell(&self) -> bool {
        let given_up = self.gone_by.is_some_and(|at| boot_time::until(at).is_zero());
        self.kill_at.is_none() || given_up || descendants::none_left(getpid(), &[])
    }

    /// Without a supervisor: until the command has ended.
    async fn alone(mut self, link: &Link, children: &mut tokio::signal::unix::Signal) -> Result<ExitCode, Failure> {
        loop {
            self.look(link);
            if self.told {
                return Ok(ExitCode::SUCCESS);
            }
            tokio::select! {
                _ = children.recv() => {}
                () = self.due() => self.act(link),
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }
}

fn end_of(status: &WaitIdStatus) -> Report {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(status), _) => Report::Exited(status),
        (None, signal) => Report::Killed(signal.unwrap_or(Signal::KILL.as_raw())),
    }
}

fn spawn(
    command: &[OsString],
    streams: &[OwnedFd; 3],
    told_inside: Option<&DeadlineFile>,
    mask: &InheritedMask,
) -> io::Result<Child> {
    let [program, args @ ..] = command else { return Err(io::ErrorKind::NotFound.into()) };
    let start = |command: &mut Command| {
        let [stdin, stdout, stderr] = streams;
        command.args(args).stdin(stdin.try_clone()?).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
        command.envs(told_inside.map(DeadlineFile::variable)).process_group(0);
        mask.within(|| command.spawn())
    };
    match start(&mut Command::new(program)) {
        // A script that does not say what runs it is run by the shell, as shells do, and all that use execvp.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => {
            start(Command::new("/bin/sh").arg(found(program)))
        }
        started => started,
    }
}

/// Where the system finds this program.
fn found(program: &OsStr) -> PathBuf {
    if program.as_bytes().contains(&b'/') {
        return program.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    let runs = |file: &PathBuf| file.is_file() && access(file, Access::EXEC_OK).is_ok();
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(runs).unwrap_or_else(|| program.into())
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_reads_back_from_its_arguments() {
        let terms = Terms { grace: Duration::from_secs(5), lead: Duration::from_nanos(7) };
        let command = ["cat".into(), OsString::from("-")];
        let args = std::iter::once("leasehold".into()).chain(WatchdogOrder::args(terms, &command));
        let order = WatchdogOrder::from_args(args).unwrap();
        assert_eq!((order.terms, order.command.as_slice()), (terms, command.as_slice()));
        assert!(WatchdogOrder::from_args(["leasehold".into(), "run".into()].into_iter()).is_none());
    }
}
