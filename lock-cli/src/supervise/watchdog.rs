//! The watchdog: starts the command, and stops it in time.

use std::ffi::OsString;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::signal::unix::SignalKind;

use super::frame::{FRAME, Link, Order, Report};
use super::{Signals, Terms, boot_time};
use crate::failure::Failure;

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
    let _deaf = Signals::new()?;
    let mut children = tokio::signal::unix::signal(SignalKind::child()).map_err(failed)?;
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().map_err(failed)?);
    let Some((deadline, streams)) = begin(&socket).map_err(failed)? else { return Ok(ExitCode::SUCCESS) };
    let mut link = Link::new(socket).map_err(failed)?;

    let group = match start(&order, deadline, streams) {
        Ok(group) => group,
        Err(error) => {
            link.send(Report::NotStarted(error.raw_os_error().unwrap_or_default()).to_frame());
            return Ok(ExitCode::SUCCESS);
        }
    };
    link.send(Report::Started(group.as_raw_nonzero().get()).to_frame());
    let mut watch = Watch { terms: order.terms, group, deadline, kill_at: None, killed: false, ended: false };
    loop {
        // What was told comes first: after a pause of this process the deadlines that it knows are old.
        tokio::select! {
            biased;
            frame = link.next() => match frame.map(Order::from_frame) {
                Some(Ok(Order::Extend(deadline))) => watch.deadline = deadline,
                Some(Ok(Order::Stop)) => watch.stop_now(&link),
                Some(Ok(Order::Begin(_))) | Some(Err(_)) => {}
                Some(Ok(Order::Goodbye)) => return Ok(ExitCode::SUCCESS),
                None if watch.ended => return Ok(ExitCode::SUCCESS),
                None => {
                    watch.stop_now(&link);
                    return watch.alone(&link, &mut children).await;
                }
            },
            _ = children.recv() => watch.look(&link),
            () = watch.due() => watch.act(&link),
        }
    }
}

/// Waits for the order to begin and the command's standard streams; `None` if the supervisor has gone before.
fn begin(socket: &UnixStream) -> io::Result<Option<(u64, [OwnedFd; 3])>> {
    let mut frame = [0; FRAME];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut frame)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?.bytes;
    if received == 0 {
        return Ok(None);
    }
    let mut streams = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            streams.extend(descriptors);
        }
    }
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let streams = streams.try_into().map_err(|_| invalid())?;
    match (received, Order::from_frame(frame)?) {
        (FRAME, Order::Begin(deadline)) => Ok(Some((deadline, streams))),
        _ => Err(invalid()),
    }
}

/// Starts the command, in a group of its own from its first moment.
fn start(order: &WatchdogOrder, deadline: u64, [stdin, stdout, stderr]: [OwnedFd; 3]) -> io::Result<Pid> {
    if boot_time::until(deadline) <= order.terms.lead {
        return Err(rustix::io::Errno::TIMEDOUT.into());
    }
    let [program, args @ ..] = order.command.as_slice() else {
        return Err(io::ErrorKind::NotFound.into());
    };
    let child = Command::new(program).args(args).stdin(stdin).stdout(stdout).stderr(stderr).process_group(0).spawn()?;
    // It is never waited for through this handle: reaping it would free the group's id.
    Ok(Pid::from_child(&child))
}

/// The command, and what is to happen to it.
#[derive(Debug)]
struct Watch {
    terms: Terms,
    group: Pid,
    deadline: u64,
    /// Set once the command is being stopped: it is never taken back.
    kill_at: Option<u64>,
    killed: bool,
    ended: bool,
}

impl Watch {
    /// Completes when there is something to do; never by itself after the end.
    async fn due(&self) {
        let at = match self.kill_at {
            _ if self.ended || self.killed => return std::future::pending().await,
            Some(at) => at,
            None => self.deadline.saturating_sub(nanos(self.terms.grace.max(self.terms.lead))),
        };
        loop {
            let left = boot_time::until(at);
            if left.is_zero() {
                return;
            }
            // Timers sleep through a suspend of the machine, and the clock does not.
            tokio::time::sleep(left.min(Duration::from_secs(1))).await;
        }
    }

    fn act(&mut self, link: &Link) {
        match self.kill_at {
            None => self.stop_at(link, self.last_moment()),
            Some(_) => {
                let _ = kill_process_group(self.group, Signal::KILL);
                self.killed = true;
            }
        }
    }

    /// When SIGKILL comes at the latest.
    fn last_moment(&self) -> u64 {
        self.deadline.saturating_sub(nanos(self.terms.lead))
    }

    /// Stops the command: SIGTERM now, SIGKILL after the grace, and before the deadline in any case.
    fn stop_now(&mut self, link: &Link) {
        self.stop_at(link, self.last_moment().min(boot_time::now().saturating_add(nanos(self.terms.grace))));
    }

    fn stop_at(&mut self, link: &Link, kill_at: u64) {
        if self.ended || self.kill_at.is_some() {
            return;
        }
        self.kill_at = Some(kill_at);
        link.send(Report::Stopping.to_frame());
        let _ = kill_process_group(self.group, Signal::TERM);
        // A stopped process handles no signal but this one.
        let _ = kill_process_group(self.group, Signal::CONT);
    }

    /// Looks how the command is. It stays unreaped, and so the group's id stays its own.
    fn look(&mut self, link: &Link) {
        if self.ended {
            return;
        }
        let wait = |options| waitid(WaitId::Pid(self.group), options | WaitIdOptions::NOHANG).ok().flatten();
        if let Some(status) = wait(WaitIdOptions::STOPPED).and_then(|status| status.stopping_signal()) {
            link.send(Report::Suspended(status).to_frame());
        }
        let Some(status) = wait(WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) else { return };
        self.ended = true;
        if self.kill_at.is_some() {
            // Who is left of the group must not outlive the lease either.
            let _ = kill_process_group(self.group, Signal::KILL);
        }
        let report = match (status.exit_status(), status.terminating_signal()) {
            (Some(status), _) => Report::Exited(status),
            (None, signal) => Report::Killed(signal.unwrap_or(Signal::KILL.as_raw())),
        };
        link.send(report.to_frame());
    }

    /// Without a supervisor: until the command has ended.
    async fn alone(mut self, link: &Link, children: &mut tokio::signal::unix::Signal) -> Result<ExitCode, Failure> {
        loop {
            self.look(link);
            if self.ended {
                return Ok(ExitCode::SUCCESS);
            }
            tokio::select! {
                _ = children.recv() => {}
                () = self.due() => self.act(link),
            }
        }
    }
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
