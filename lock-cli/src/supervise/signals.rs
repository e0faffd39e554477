//! [`Signals`]: the signals that `leasehold` forwards.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use rustix::process::Signal;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

use super::mask::InheritedMask;
use crate::failure::Failure;

/// The forwarded signals. Until the command runs they end `leasehold`, as they would without it.
const FORWARDED: [Signal; 7] =
    [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2, Signal::WINCH];

/// The signals that this process receives, from now on, instead of being ended by them.
#[derive(Debug)]
pub(crate) struct Signals {
    inherited: InheritedMask,
    streams: Vec<(i32, Stream)>,
}

impl Signals {
    /// Receives the signals that are passed on, except those that were ignored when this process
    /// was started (as by `nohup`): these stay ignored, by the command too. What was blocked is not
    /// blocked any more, also in the threads that begin after this.
    pub(crate) fn new() -> Result<Signals, Failure> {
        let inherited = InheritedMask::unblock()
            .map_err(|error| Failure::system(format!("the signals that are blocked cannot be received: {error}")))?;
        let mut signals = Signals { inherited, streams: Vec::new() };
        let ignored = ignored();
        for signal in FORWARDED.map(Signal::as_raw) {
            if ignored & bit(signal) == 0 {
                signals.receive(signal)?;
            }
        }
        Ok(signals)
    }

    /// The signals that were blocked when this process was started.
    pub(crate) fn inherited(&self) -> &InheritedMask {
        &self.inherited
    }

    /// Receives SIGCHLD. From then on ended children can be awaited, even if SIGCHLD was ignored
    /// when this process was started.
    pub(crate) fn child_signals() -> io::Result<Stream> {
        signal(SignalKind::child())
    }

    /// Receives the signals of job control too, from now on.
    pub(crate) fn with_job_control(&mut self) -> Result<(), Failure> {
        self.receive(Signal::CONT.as_raw())?;
        if ignored() & bit(Signal::TSTP.as_raw()) == 0 {
            self.receive(Signal::TSTP.as_raw())?;
        }
        Ok(())
    }

    fn receive(&mut self, number: i32) -> Result<(), Failure> {
        if self.streams.iter().any(|(there, _)| *there == number) {
            return Ok(());
        }
        let stream = signal(SignalKind::from_raw(number))
            .map_err(|error| Failure::system(format!("the signal {number} cannot be received: {error}")))?;
        self.streams.push((number, stream));
        Ok(())
    }

    /// The next signal.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> i32 {
        poll_fn(|context| {
            for (number, stream) in &mut self.streams {
                if let Poll::Ready(Some(())) = stream.poll_recv(context) {
                    return Poll::Ready(*number);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// The next signal that ends a process which does not handle it.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn next_terminating(&mut self) -> i32 {
        loop {
            let signal = self.next().await;
            if signal != Signal::WINCH.as_raw() {
                return signal;
            }
        }
    }
}

/// The signals that this process ignores, as a set of bits. Reading it from the system needs no
/// unsafe code; where it cannot be read, none is.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0)
}

fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rust_program_ignores_broken_pipes_and_nothing_else_that_is_passed_on() {
        assert_ne!(ignored() & bit(Signal::PIPE.as_raw()), 0);
        assert_eq!(ignored() & bit(Signal::USR1.as_raw()), 0);
    }
}
