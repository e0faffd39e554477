//! [`WatchedCommand`]: the command of a watchdog.

use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, getpid, kill_process_group, waitid};

use super::deadline_file::DeadlineFile;
use super::frame::{FrameSocket, Report};
use super::mask::InheritedMask;
use super::run_limit::{RunLimit, nanos};
use super::spawn::spawn;
use super::stop_policy::{KILL_TIMEOUT, StopPolicy};
use super::watchdog_order::WatchdogOrder;
use super::{boot_time, descendants};
use crate::failure::Failure;

/// Interval at which the command is polled: a signal may be missed.
pub(super) const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Interval at which SIGKILL is repeated until nothing is left.
const KILL_RETRY_INTERVAL: Duration = Duration::from_millis(5);

/// A running command, and the state of its stop.
#[derive(Debug)]
pub(super) struct WatchedCommand {
    policy: StopPolicy,
    /// The process group of the command.
    pub(super) group: Pid,
    limit: RunLimit,
    /// The deadline for a `leasehold run` inside the command.
    inner_deadline: Option<DeadlineFile>,
    /// The moment of the next SIGKILL. Set once the command is being stopped, which is never taken
    /// back.
    kill_at: Option<u64>,
    /// The moment at which the wait for the killed processes is given up.
    gone_by: Option<u64>,
    /// The end of the command itself.
    end: Option<Report>,
    /// The end was reported to the supervisor. Processes that are left then belong to the user.
    pub(super) has_reported: bool,
}

impl WatchedCommand {
    /// Starts the command, in its own group from its first moment.
    pub(super) fn start(
        order: &WatchdogOrder,
        limit: RunLimit,
        streams: [OwnedFd; 3],
        mask: &InheritedMask,
    ) -> io::Result<WatchedCommand> {
        if boot_time::until(limit.kill_at(order.policy)).is_zero() {
            return Err(rustix::io::Errno::TIMEDOUT.into());
        }
        let inner_deadline =
            if limit.deadline == u64::MAX { None } else { DeadlineFile::new(nanos(order.policy.lead)) };
        let group = getpid();
        let (kill_at, gone_by, end, has_reported) = (None, None, None, false);
        let mut watch =
            WatchedCommand { policy: order.policy, group, limit, inner_deadline, kill_at, gone_by, end, has_reported };
        watch.publish_deadline();
        let child = spawn(&order.command, &streams, watch.inner_deadline.as_ref(), mask)?;
        // It is not awaited through this handle: reaping it would free the id of the group.
        watch.group = Pid::from_child(&child);
        Ok(watch)
    }

    /// Completes when SIGTERM or SIGKILL is due; never after the end.
    pub(super) async fn due(&self) {
        if self.has_reported {
            return std::future::pending().await;
        }
        loop {
            let at = self.kill_at.unwrap_or_else(|| self.limit.term_at(self.policy));
            let left = boot_time::until(at);
            if left.is_zero() {
                return;
            }
            // Timers do not count a suspend of the machine, and the clock does.
            tokio::time::sleep(left.min(POLL_INTERVAL)).await;
        }
    }

    pub(super) fn on_due(&mut self, link: &FrameSocket) {
        if self.kill_at.is_none() {
            return self.stop_at(link, self.last_kill_at());
        }
        let _ = kill_process_group(self.group, Signal::KILL);
        descendants::kill(getpid(), &[]);
        let now = boot_time::now();
        self.gone_by.get_or_insert(now.saturating_add(nanos(KILL_TIMEOUT)));
        self.kill_at = Some(now.saturating_add(nanos(KILL_RETRY_INTERVAL)));
        self.poll(link);
    }

    /// The latest moment of SIGKILL.
    fn last_kill_at(&self) -> u64 {
        self.limit.kill_at(self.policy)
    }

    pub(super) fn extend(&mut self, deadline: u64) {
        self.limit.deadline = deadline;
        self.publish_deadline();
    }

    /// Writes the deadline for a `leasehold run` inside the command: earlier by the lead than its
    /// own SIGKILL, so that it can release its lock.
    fn publish_deadline(&self) {
        if let Some(file) = &self.inner_deadline {
            let kill_at = self.last_kill_at().min(self.kill_at.unwrap_or(u64::MAX));
            file.write(kill_at.saturating_sub(nanos(self.policy.lead)));
        }
    }

    /// Stops the command: SIGTERM now, SIGKILL after the grace, and before the deadline in any
    /// case.
    pub(super) fn stop_now(&mut self, link: &FrameSocket) {
        self.stop_at(link, self.last_kill_at().min(boot_time::now().saturating_add(nanos(self.policy.grace))));
    }

    fn stop_at(&mut self, link: &FrameSocket, kill_at: u64) {
        if self.end.is_some() || self.kill_at.is_some() {
            return;
        }
        let by_outer = self.limit.outer() < self.limit.deadline.saturating_sub(nanos(self.policy.lead));
        self.kill_at = Some(kill_at);
        self.publish_deadline();
        link.send(Report::Stopping { by_outer }.to_frame());
        let _ = kill_process_group(self.group, Signal::TERM);
        // A stopped process handles no signal but this one.
        let _ = kill_process_group(self.group, Signal::CONT);
        descendants::terminate(getpid(), self.group);
    }

    /// Polls the state of the command. It stays unreaped, so that the id of the group is not
    /// reused.
    pub(super) fn poll(&mut self, link: &FrameSocket) {
        descendants::reap(&[self.group]);
        if self.has_reported {
            return;
        }
        self.publish_deadline();
        let wait = |options| waitid(WaitId::Pid(self.group), options | WaitIdOptions::NOHANG).ok().flatten();
        if let Some(status) = wait(WaitIdOptions::STOPPED).and_then(|status| status.stopping_signal()) {
            link.send(Report::Suspended(status).to_frame());
        }
        if self.end.is_none() {
            self.end = wait(WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).map(|status| end_of(&status));
        }
        if let Some(end) = self.end.filter(|_| self.is_finished()) {
            if let Some(file) = self.inner_deadline.as_ref().filter(|_| self.kill_at.is_none()) {
                file.write(u64::MAX);
            }
            self.has_reported = true;
            link.send(end.to_frame());
        }
    }

    /// Whether all has ended that must end: the command, and after a stop everything below it.
    fn is_finished(&self) -> bool {
        let given_up = self.gone_by.is_some_and(|at| boot_time::until(at).is_zero());
        self.kill_at.is_none() || given_up || descendants::is_empty(getpid(), &[])
    }

    /// Goes on without a supervisor until the command has ended.
    pub(super) async fn run_alone(
        mut self,
        link: &FrameSocket,
        children: &mut tokio::signal::unix::Signal,
    ) -> Result<ExitCode, Failure> {
        loop {
            self.poll(link);
            if self.has_reported {
                return Ok(ExitCode::SUCCESS);
            }
            tokio::select! {
                _ = children.recv() => {}
                () = self.due() => self.on_due(link),
                () = tokio::time::sleep(POLL_INTERVAL) => {}
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
