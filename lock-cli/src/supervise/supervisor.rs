//! [`supervise`]: the supervisor, which informs the watchdog, forwards signals, and returns how the command ended.

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
use super::frame::{FrameSocket, Order, Report};
use super::job::{Ending, Job, StopReason};
use super::signals::Signals;
use super::stop_policy::{KILL_TIMEOUT, StopPolicy};
use super::terminal::Terminal;
use super::watchdog_order::WatchdogOrder;
use super::{boot_time, descendants};
use crate::failure::Failure;

/// Time limit for a command to stop after SIGTSTP; then it gets SIGSTOP.
const SUSPEND_TIMEOUT: Duration = Duration::from_millis(500);

/// Time limit for the exit of the watchdog.
const WATCHDOG_EXIT_TIMEOUT: Duration = Duration::from_millis(500);

/// Runs the command until it ends or is stopped. Without a lease only the end of this process stops
/// it.
pub(crate) async fn supervise(
    job: Job,
    lease: Option<&Validity>,
    policy: StopPolicy,
    signals: &mut Signals,
) -> Result<Ending, Failure> {
    signals.with_job_control()?;
    let failed = |error| Failure::system(format!("the watchdog cannot be started: {error}"));
    let mut children = Signals::child_signals().map_err(failed)?;
    // The children of a killed watchdog become ours.
    descendants::adopt();
    let strangers = descendants::children();
    let deadline = deadline_of(lease);
    let (link, watchdog) = start_watchdog(&job, policy, deadline, signals).map_err(failed)?;
    let mut supervisor = Supervisor {
        job,
        link,
        policy,
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

/// The end of the validity of the lease, in nanoseconds of the boot-time clock. The clock is read
/// before the lease: time that passes in between makes the deadline earlier.
fn deadline_of(lease: Option<&Validity>) -> u64 {
    let now = boot_time::now();
    let left = |lease: &Validity| u64::try_from(lease.remaining().as_nanos()).unwrap_or(u64::MAX);
    lease.map_or(u64::MAX, |lease| now.saturating_add(left(lease)))
}

/// Starts the watchdog, out of reach of signals of the terminal. Passes it our standard streams for
/// the command, and the deadline of the `leasehold run` around us.
fn start_watchdog(job: &Job, policy: StopPolicy, deadline: u64, signals: &Signals) -> io::Result<(FrameSocket, Child)> {
    let outer = OuterDeadline::from_env();
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new(executable()?);
    command.arg0("lock-watchdog").args(WatchdogOrder::args(policy, &job.command));
    job.apply_env(&mut command);
    command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null()).process_group(0);
    let watchdog = signals.inherited().restored_for(|| command.spawn())?;
    drop(command);
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let mut descriptors = vec![stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    descriptors.extend(outer.as_ref().map(|outer| outer.file().as_fd()));
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let frame = Order::Start(deadline).to_frame();
    sendmsg(&ours, &[IoSlice::new(&frame)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok((FrameSocket::new(ours)?, watchdog))
}

/// The path of this executable, even if its file was replaced since this process was started.
fn executable() -> io::Result<std::path::PathBuf> {
    let itself = std::path::Path::new("/proc/self/exe");
    if itself.exists() { Ok(itself.to_owned()) } else { std::env::current_exe() }
}

struct Supervisor {
    job: Job,
    link: FrameSocket,
    policy: StopPolicy,
    /// The last deadline that was sent to the watchdog.
    deadline: u64,
    watchdog: Pid,
    /// The process group of the command, from its start until it must not be signalled any more.
    group: Option<Pid>,
    /// Children from before an `exec` of this program: no part of the command.
    strangers: Vec<Pid>,
    terminal: Option<Terminal>,
    /// The command has the terminal, or had it before it was suspended.
    had_terminal: bool,
    /// After SIGTSTP: the moment at which the command gets SIGSTOP if it has not stopped.
    suspend_by: Option<u64>,
    /// The reason of a final stop.
    stopped: Option<StopReason>,
    /// Signals that arrived before the command ran.
    early: Vec<i32>,
}

impl Supervisor {
    async fn run(
        &mut self,
        lease: Option<&Validity>,
        signals: &mut Signals,
        children: &mut tokio::signal::unix::Signal,
    ) -> Result<Ending, Failure> {
        let mut is_loss_handled = false;
        // Subscribed before the deadline is read: no renewal in between is missed.
        let mut renewal = std::pin::pin!(renewed(lease));
        self.extend(lease);
        loop {
            let poll_interval = self.poll_interval();
            tokio::select! {
                biased;
                frame = self.link.next() => match frame.map(Report::from_frame) {
                    Some(Ok(report)) => {
                        if let Some(ending) = self.on_report(report, lease) {
                            return Ok(ending);
                        }
                    }
                    Some(Err(_)) => {}
                    None => return self.without_watchdog().await,
                },
                signal = signals.next() => self.forward(signal),
                reason = lost(lease), if !is_loss_handled => {
                    is_loss_handled = true;
                    self.on_loss(reason);
                }
                () = renewal.as_mut(), if !is_loss_handled => {
                    renewal.set(renewed(lease));
                    self.extend(lease);
                }
                _ = children.recv() => self.reap(),
                () = tokio::time::sleep(poll_interval) => self.poll(),
            }
        }
    }

    /// Timers do not count a suspend of the machine, and the clock does: it is polled once a
    /// second, and more often near the deadline.
    fn poll_interval(&self) -> Duration {
        let soon = boot_time::until(self.deadline).saturating_sub(self.policy.lead) / 4;
        let soon = soon.clamp(Duration::from_millis(2), Duration::from_secs(1));
        self.suspend_by.map_or(soon, |by| soon.min(boot_time::until(by)))
    }

    /// Sends a new deadline to the watchdog.
    fn extend(&mut self, lease: Option<&Validity>) {
        let deadline = deadline_of(lease);
        if deadline > self.deadline && self.stopped.is_none() {
            self.deadline = deadline;
            self.link.send(Order::Extend(deadline).to_frame());
        }
    }

    /// Does the work of the watchdog if that has not done it.
    fn poll(&mut self) {
        // A stopped watchdog would neither stop the command nor report its end.
        let _ = kill_process(self.watchdog, Signal::CONT);
        self.reap();
        if boot_time::until(self.deadline) <= self.policy.lead {
            self.signal(Signal::KILL);
            descendants::kill(self.watchdog, &[]);
        }
        if self.suspend_by.is_some_and(|at| boot_time::until(at).is_zero()) {
            self.signal(Signal::STOP);
            self.suspend_self();
        }
    }

    /// Reaps our children except the watchdog: as the first process of a container we inherit all
    /// orphans. The command stays unreaped even if its watchdog was killed, so that the id of its
    /// group is not reused.
    fn reap(&self) {
        let spared: Vec<_> = self.group.into_iter().chain([self.watchdog]).collect();
        descendants::reap(&spared);
    }

    /// Handles the loss of the lease. An expiry the watchdog notices by itself, and earlier.
    fn on_loss(&mut self, reason: LossReason) {
        if reason != LossReason::Expired {
            self.link.send(Order::Stop.to_frame());
        }
    }

    fn on_report(&mut self, report: Report, lease: Option<&Validity>) -> Option<Ending> {
        match report {
            Report::Started(pid) => {
                self.group = Pid::from_raw(pid);
                if self.had_terminal {
                    self.had_terminal = self.give_terminal();
                }
                for signal in std::mem::take(&mut self.early) {
                    self.forward(signal);
                }
            }
            Report::Stopping { by_outer: true } => self.stopped = Some(StopReason::OuterEnds),
            // Read now: an answer that arrives while the command ends is too late.
            Report::Stopping { by_outer: false } => {
                self.stopped = Some(StopReason::NotRenewed(lease.and_then(Validity::renewal_failure)));
            }
            Report::Suspended(signal) => self.on_suspended(signal),
            Report::NotStarted(error) if error == rustix::io::Errno::TIMEDOUT.raw_os_error() => {
                return Some(Ending::Stopped(StopReason::TooLate));
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

    /// Forwards a signal to the group of the command.
    fn forward(&mut self, signal: i32) {
        let Some(signal) = Signal::from_named_raw(signal) else { return };
        if self.group.is_none() {
            self.early.push(signal.as_raw());
            return;
        }
        match signal {
            Signal::CONT => self.resume(),
            Signal::TSTP => {
                let by = boot_time::now().saturating_add(SUSPEND_TIMEOUT.as_nanos() as u64);
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

    /// Handles the suspension of the command by a signal.
    fn on_suspended(&mut self, signal: i32) {
        if self.suspend_by.is_some() {
            return self.suspend_self();
        }
        let (Some(group), Some(terminal)) = (self.group, &self.terminal) else { return };
        let asks = [Signal::TTIN, Signal::TTOU].map(Signal::as_raw).contains(&signal);
        if asks && self.give_terminal() {
            self.had_terminal = true;
            return self.signal(Signal::CONT);
        }
        if !asks && !terminal.is_at(group) && !terminal.is_ours() {
            // Another process stopped a command in the background, and will continue it.
            return;
        }
        if Terminal::has_job_control() {
            terminal.take_back(group);
            // The shell sees its job stop when all of our group have stopped; SIGCONT goes on from
            // here.
            let _ = rustix::process::kill_current_process_group(Signal::STOP);
        } else if signal == Signal::TSTP.as_raw() {
            self.signal(Signal::CONT);
        }
    }

    /// Stops this process, after the command has stopped.
    fn suspend_self(&mut self) {
        self.suspend_by = None;
        if let (Some(group), Some(terminal)) = (self.group, &self.terminal) {
            terminal.take_back(group);
        }
        let _ = kill_process(getpid(), Signal::STOP);
    }

    /// Continues the command after we were continued.
    fn resume(&mut self) {
        self.suspend_by = None;
        if self.had_terminal {
            self.give_terminal();
        }
        self.signal(Signal::CONT);
    }

    /// Gives the terminal to the command if we have it; returns whether the command has it now.
    fn give_terminal(&self) -> bool {
        let (Some(group), Some(terminal)) = (self.group, &self.terminal) else { return false };
        if terminal.is_ours() {
            terminal.give(group);
        }
        terminal.is_at(group)
    }

    /// Handles the early end of the watchdog: its descendants are ours now and are killed at once,
    /// since nobody else would do it in time.
    async fn without_watchdog(&mut self) -> Result<Ending, Failure> {
        let until = boot_time::now().saturating_add(KILL_TIMEOUT.as_nanos() as u64);
        loop {
            // Its end of the socket closes before its children become ours.
            let handed_on = descendants::is_dead(self.watchdog);
            self.signal(Signal::KILL);
            descendants::kill(getpid(), &self.strangers);
            // The lock is released after this: nothing may still run then.
            let gone = handed_on && descendants::is_empty(getpid(), &self.strangers);
            if gone || boot_time::until(until).is_zero() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // A command whose start was not reported yet is among our children, unreaped.
        let not_ours = |child: &Pid| *child == self.watchdog || self.strangers.contains(child);
        if self.group.is_some() || !descendants::children().iter().all(not_ours) {
            return Ok(Ending::Stopped(StopReason::Unwatched));
        }
        Err(Failure::system("the watchdog ended before the command ran"))
    }

    /// Lets the watchdog reap the command and exit, and reaps it; a watchdog that hangs is left to
    /// the system.
    async fn end(mut self, mut watchdog: Child) {
        if let (Some(group), Some(terminal)) = (self.group.take(), &self.terminal) {
            terminal.take_back(group);
        }
        self.link.send(Order::Exit.to_frame());
        let ended = async { while self.link.next().await.is_some() {} };
        if tokio::time::timeout(WATCHDOG_EXIT_TIMEOUT, ended).await.is_ok() {
            let _ = watchdog.wait();
        }
    }
}

/// Completes at the next renewal after this call; never after a loss.
fn renewed(lease: Option<&Validity>) -> impl Future<Output = ()> + '_ {
    let renewed = lease.map(Validity::renewed);
    async move {
        let is_renewed = match renewed {
            Some(renewed) => renewed.await.is_ok(),
            None => false,
        };
        if !is_renewed {
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
