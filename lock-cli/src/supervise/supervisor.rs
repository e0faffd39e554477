//! The supervisor: keeps the watchdog told, passes signals on, and says how the command ended.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use leasehold::{LossReason, Validity};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Pid, Signal, getpid, kill_process, kill_process_group};

use super::deadline_file::OuterDeadline;
use super::frame::{Link, Order, Report};
use super::terminal::Terminal;
use super::{ENDING, Ending, Job, Signals, Terms, WatchdogOrder, Why, boot_time, descendants};
use crate::failure::Failure;

/// How long a command may take to stop when `leasehold` was told to, before it is stopped by force.
const SUSPENDING: Duration = Duration::from_millis(500);

/// How long the watchdog may take to end.
const LEAVING: Duration = Duration::from_millis(500);

/// Runs the command until it ends, or until it had to be stopped. Without a lease nothing stops it but the end of this
/// process.
pub(crate) async fn supervise(
    job: Job,
    lease: Option<&Validity>,
    terms: Terms,
    signals: &mut Signals,
) -> Result<Ending, Failure> {
    signals.with_job_control()?;
    let failed = |error| Failure::system(format!("the watchdog cannot be started: {error}"));
    let mut children = Signals::of_children().map_err(failed)?;
    // A watchdog that is killed leaves us what is below it.
    descendants::adopt();
    let strangers = descendants::own();
    let deadline = deadline_of(lease);
    let (link, watchdog) = start_watchdog(&job, terms, deadline, signals).map_err(failed)?;
    let mut supervisor = Supervisor {
        job,
        link,
        terms,
        deadline,
        watchdog: Pid::from_child(&watchdog),
        group: None,
        strangers,
        terminal: Terminal::open(),
        had_terminal: Terminal::is_wanted(),
        suspend_by: None,
        stopped: None,
        early: Vec::new(),
    };
    let ending = supervisor.run(lease, signals, &mut children).await;
    supervisor.end(watchdog).await;
    ending
}

/// Until when the lease is valid, in nanoseconds of the boot-time clock. That clock is read before the lease is asked:
/// what passes in between makes the deadline earlier.
fn deadline_of(lease: Option<&Validity>) -> u64 {
    let now = boot_time::now();
    let left = |lease: &Validity| u64::try_from(lease.remaining().as_nanos()).unwrap_or(u64::MAX);
    lease.map_or(u64::MAX, |lease| now.saturating_add(left(lease)))
}

/// Starts the watchdog, out of reach of the terminal's signals, and gives it our standard streams for the command, and the
/// deadline of the `leasehold run` around us.
fn start_watchdog(job: &Job, terms: Terms, deadline: u64, signals: &Signals) -> io::Result<(Link, Child)> {
    let outer = OuterDeadline::from_env();
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new(executable()?);
    command.arg0("lock-watchdog").args(WatchdogOrder::args(terms, &job.command));
    job.apply_env(&mut command);
    command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null()).process_group(0);
    let watchdog = signals.inherited().within(|| command.spawn())?;
    drop(command);
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let mut descriptors = vec![stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    descriptors.extend(outer.as_ref().map(|outer| outer.file().as_fd()));
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let frame = Order::Begin(deadline).to_frame();
    sendmsg(&ours, &[IoSlice::new(&frame)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok((Link::new(ours)?, watchdog))
}

/// This executable, also when its file was replaced since this process was started.
fn executable() -> io::Result<std::path::PathBuf> {
    let itself = std::path::Path::new("/proc/self/exe");
    if itself.exists() { Ok(itself.to_owned()) } else { std::env::current_exe() }
}

struct Supervisor {
    job: Job,
    link: Link,
    terms: Terms,
    /// Until when the watchdog was told that the lease is valid.
    deadline: u64,
    watchdog: Pid,
    /// The command's group, once it runs and until nobody may signal it any more.
    group: Option<Pid>,
    /// Children that whatever became this process had before: no part of the command.
    strangers: Vec<Pid>,
    terminal: Option<Terminal>,
    /// Whether the command has, or had before it was suspended, the terminal.
    had_terminal: bool,
    /// We were told to stop: by then the command has stopped, or is made to.
    suspend_by: Option<u64>,
    /// Why the command is being stopped for good.
    stopped: Option<Why>,
    /// Signals that came before the command ran.
    early: Vec<i32>,
}

impl Supervisor {
    async fn run(
        &mut self,
        lease: Option<&Validity>,
        signals: &mut Signals,
        children: &mut tokio::signal::unix::Signal,
    ) -> Result<Ending, Failure> {
        let mut loss_told = false;
        // Asked for before the deadline is read: no renewal in between is missed.
        let mut renewal = std::pin::pin!(renewed(lease));
        self.extend(lease);
        loop {
            let next_look = self.next_look();
            tokio::select! {
                biased;
                frame = self.link.next() => match frame.map(Report::from_frame) {
                    Some(Ok(report)) => {
                        if let Some(ending) = self.hear(report, lease) {
                            return Ok(ending);
                        }
                    }
                    Some(Err(_)) => {}
                    None => return self.without_watchdog().await,
                },
                signal = signals.next() => self.pass_on(signal),
                reason = lost(lease), if !loss_told => {
                    loss_told = true;
                    self.lose(reason);
                }
                () = renewal.as_mut(), if !loss_told => {
                    renewal.set(renewed(lease));
                    self.extend(lease);
                }
                _ = children.recv() => self.reap(),
                () = tokio::time::sleep(next_look) => self.look(),
            }
        }
    }

    /// Timers sleep through a suspend of the machine, and the clock does not: it is looked at once a second, and more
    /// often as the end comes near.
    fn next_look(&self) -> Duration {
        let soon = boot_time::until(self.deadline).saturating_sub(self.terms.lead) / 4;
        let soon = soon.clamp(Duration::from_millis(2), Duration::from_secs(1));
        self.suspend_by.map_or(soon, |by| soon.min(boot_time::until(by)))
    }

    /// Tells the watchdog of a renewal.
    fn extend(&mut self, lease: Option<&Validity>) {
        let deadline = deadline_of(lease);
        if deadline > self.deadline && self.stopped.is_none() {
            self.deadline = deadline;
            self.link.send(Order::Extend(deadline).to_frame());
        }
    }

    /// Does the watchdog's work if it has not been done.
    fn look(&mut self) {
        // A watchdog that somebody stopped would neither stop the command nor tell of its end.
        let _ = kill_process(self.watchdog, Signal::CONT);
        self.reap();
        if boot_time::until(self.deadline) <= self.terms.lead {
            self.signal(Signal::KILL);
            descendants::kill(self.watchdog, &[]);
        }
        if self.suspend_by.is_some_and(|at| boot_time::until(at).is_zero()) {
            self.signal(Signal::STOP);
            self.suspended_as_told();
        }
    }

    /// Reaps what is ours besides the watchdog: as the first process of a container we inherit the orphans of all that is
    /// started in it. The command stays unreaped also where its watchdog was killed, and so its group's id stays its own.
    fn reap(&self) {
        let spared: Vec<_> = self.group.into_iter().chain([self.watchdog]).collect();
        descendants::reap(&spared);
    }

    /// The lease is lost. Where time has ended it, the watchdog knows by itself, and earlier.
    fn lose(&mut self, reason: LossReason) {
        if reason != LossReason::Expired {
            self.link.send(Order::Stop.to_frame());
        }
    }

    fn hear(&mut self, report: Report, lease: Option<&Validity>) -> Option<Ending> {
        match report {
            Report::Started(pid) => {
                self.group = Pid::from_raw(pid);
                if self.had_terminal {
                    self.had_terminal = self.give_terminal();
                }
                for signal in std::mem::take(&mut self.early) {
                    self.pass_on(signal);
                }
            }
            Report::Stopping { by_outer: true } => self.stopped = Some(Why::OuterEnds),
            // Looked up now: an answer that comes while the command ends is too late for it.
            Report::Stopping { by_outer: false } => {
                self.stopped = Some(Why::NotRenewed(lease.and_then(Validity::renewal_failure)));
            }
            Report::Suspended(signal) => self.suspended(signal),
            Report::NotStarted(error) if error == rustix::io::Errno::TIMEDOUT.raw_os_error() => {
                return Some(Ending::Stopped(Why::TooLate));
            }
            Report::NotStarted(error) => {
                return Some(Ending::NotStarted(error, self.job.command.first().cloned().unwrap_or_default()));
            }
            Report::Exited(_) | Report::Killed(_) if self.stopped.is_some() => {
                return self.stopped.take().map(Ending::Stopped);
            }
            Report::Exited(status) => return Some(Ending::Exited(status)),
            Report::Killed(signal) => return Some(Ending::Killed(signal)),
        }
        None
    }

    /// Passes a signal on to the command's group.
    fn pass_on(&mut self, signal: i32) {
        let Some(signal) = Signal::from_named_raw(signal) else { return };
        if self.group.is_none() {
            self.early.push(signal.as_raw());
            return;
        }
        match signal {
            Signal::CONT => self.resume(),
            Signal::TSTP => {
                let by = boot_time::now().saturating_add(SUSPENDING.as_nanos() as u64);
                self.suspend_by.get_or_insert(by);
                self.signal(Signal::TSTP);
            }
            signal => self.signal(signal),
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            let _ = kill_process_group(group, signal);
        }
    }

    /// A signal has suspended the command.
    fn suspended(&mut self, signal: i32) {
        if self.suspend_by.is_some() {
            return self.suspended_as_told();
        }
        let (Some(group), Some(terminal)) = (self.group, &self.terminal) else { return };
        let asks = [Signal::TTIN, Signal::TTOU].map(Signal::as_raw).contains(&signal);
        if asks && self.give_terminal() {
            self.had_terminal = true;
            return self.signal(Signal::CONT);
        }
        if !asks && !terminal.is_at(group) && !terminal.is_ours() {
            // Somebody stopped a command in the background: that is between the two.
            return;
        }
        if Terminal::has_job_control() {
            terminal.take_back(group);
            // The shell sees its job stop when all of our group have stopped; SIGCONT goes on from here.
            let _ = rustix::process::kill_current_process_group(Signal::STOP);
        } else if signal == Signal::TSTP.as_raw() {
            self.signal(Signal::CONT);
        }
    }

    /// We were told to stop, and the command has stopped: now we do.
    fn suspended_as_told(&mut self) {
        self.suspend_by = None;
        if let (Some(group), Some(terminal)) = (self.group, &self.terminal) {
            terminal.take_back(group);
        }
        let _ = kill_process(getpid(), Signal::STOP);
    }

    /// We were continued, and so is the command.
    fn resume(&mut self) {
        self.suspend_by = None;
        if self.had_terminal {
            self.give_terminal();
        }
        self.signal(Signal::CONT);
    }

    /// Gives the command the terminal if we have it; whether the command has it now.
    fn give_terminal(&self) -> bool {
        let (Some(group), Some(terminal)) = (self.group, &self.terminal) else { return false };
        if terminal.is_ours() {
            terminal.give(group);
        }
        terminal.is_at(group)
    }

    /// The watchdog has ended before the command: all that was below it is ours now, and is ended at once, since nobody
    /// would do it in time.
    async fn without_watchdog(&mut self) -> Result<Ending, Failure> {
        let until = boot_time::now().saturating_add(ENDING.as_nanos() as u64);
        loop {
            // Its end of the socket is closed before its children are ours.
            let handed_on = descendants::is_dead(self.watchdog);
            self.signal(Signal::KILL);
            descendants::kill(getpid(), &self.strangers);
            // The lock is given back after this: nobody may still run then.
            let gone = handed_on && descendants::none_left(getpid(), &self.strangers);
            if gone || boot_time::until(until).is_zero() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // One that was just started, and of which we were not told, is there among our children, unreaped.
        let not_ours = |child: &Pid| *child == self.watchdog || self.strangers.contains(child);
        if self.group.is_some() || !descendants::own().iter().all(not_ours) {
            return Ok(Ending::Stopped(Why::Unwatched));
        }
        Err(Failure::system("the watchdog ended before the command ran"))
    }

    /// Lets the watchdog reap the command and end, and reaps it; one that hangs is left to the system.
    async fn end(mut self, mut watchdog: Child) {
        if let (Some(group), Some(terminal)) = (self.group.take(), &self.terminal) {
            terminal.take_back(group);
        }
        self.link.send(Order::Goodbye.to_frame());
        let ended = async { while self.link.next().await.is_some() {} };
        if tokio::time::timeout(LEAVING, ended).await.is_ok() {
            let _ = watchdog.wait();
        }
    }
}

/// Completes at the next renewal after this call. A loss is told elsewhere.
fn renewed(lease: Option<&Validity>) -> impl Future<Output = ()> + '_ {
    let renewed = lease.map(Validity::renewed);
    async move {
        let told = match renewed {
            Some(renewed) => renewed.await.is_ok(),
            None => false,
        };
        if !told {
            std::future::pending::<()>().await;
        }
    }
}

async fn lost(lease: Option<&Validity>) -> LossReason {
    match lease {
        Some(lease) => lease.lost().await,
        None => std::future::pending().await,
    }
}
