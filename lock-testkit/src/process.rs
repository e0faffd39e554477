//! [`Process`]: a child process of a test.

use std::process::{Child, Command, ExitStatus};

use rustix::process::{Pid, Signal, kill_process};

use crate::until;

/// A child process of a test: a program under test, or a server for it. Dropped, it is killed.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts `command`.
    ///
    /// # Panics
    ///
    /// If it cannot be started: a program that a test needs and that is not installed fails the
    /// test.
    #[track_caller]
    pub fn start(command: &mut Command) -> Process {
        let name = command.get_program().to_string_lossy().into_owned();
        match command.spawn() {
            Ok(child) => Process { name, child },
            Err(error) => panic!("{name} cannot be started: {error}; ./test.sh installs what the tests need"),
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The child itself, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Suspends it, as a long pause of the machine does (`SIGSTOP`).
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Continues it after a [`pause`](Process::pause) (`SIGCONT`).
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Asks it to end (`SIGTERM`).
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Kills it (`SIGKILL`), and waits until it has ended.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        self.wait();
    }

    /// Its exit status if it has ended.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap_or_else(|error| panic!("{} cannot be waited for: {error}", self.name))
    }

    /// Waits until it has ended.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        until(&what, || self.try_wait())
    }

    /// Sends it a signal.
    ///
    /// # Panics
    ///
    /// If it has ended.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process has an id");
        if let Err(error) = kill_process(pid, signal) {
            panic!("{} got no signal: {error}", self.name);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Process {
        Process::start(Command::new("sleep").arg("1000"))
    }

    #[test]
    fn a_process_is_gone_when_it_is_killed() {
        let mut process = sleeper();
        assert!(process.try_wait().is_none());
        process.kill();
        assert!(!process.try_wait().expect("it has ended").success());
    }

    #[test]
    fn a_paused_process_stays_until_it_goes_on() {
        let mut process = sleeper();
        process.pause();
        let status = format!("/proc/{}/stat", process.id());
        until("its stop", || std::fs::read_to_string(&status).ok().filter(|stat| stat.contains(") T ")));
        process.terminate();
        assert!(process.try_wait().is_none());
        process.resume();
        process.wait();
    }
}
