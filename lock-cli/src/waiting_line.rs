//! [`WaitingLine`]: shows the holder during a wait.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use leasehold::{HeldBy, LockName};

use crate::output;

/// One line on standard error while the lock is held by somebody else: kept up to date and erased
/// at the end on a terminal, else written once, after a second.
pub(crate) struct WaitingLine {
    name: LockName,
    style: Style,
    since: Instant,
    ahead: Ahead,
    drawn: bool,
}

/// The current holder, and when it was learned.
#[derive(Clone, Default)]
pub(crate) struct Ahead(Arc<Mutex<Option<(HeldBy, Instant)>>>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Quiet,
    Once,
    Live,
}

impl Ahead {
    /// Sets the current holder.
    pub(crate) fn set(&self, by: &HeldBy) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((by.clone(), Instant::now()));
    }

    /// The current holder, with its times brought up to date.
    fn now(&self) -> Option<HeldBy> {
        let (mut by, at) = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        by.held_for = by.held_for.map(|time| time + at.elapsed());
        Some(by)
    }
}

impl WaitingLine {
    /// Interval of redrawing.
    pub(crate) const REDRAW_INTERVAL: Duration = Duration::from_millis(250);

    /// Shorter waits print no line, unless it can be erased.
    const MIN_WAIT: Duration = Duration::from_secs(1);

    /// A line for this lock; `quiet` writes none.
    pub(crate) fn new(name: &LockName, quiet: bool) -> WaitingLine {
        let style = match (quiet, io::stderr().is_terminal()) {
            (true, _) => Style::Quiet,
            (false, true) => Style::Live,
            (false, false) => Style::Once,
        };
        WaitingLine { name: name.clone(), style, since: Instant::now(), ahead: Ahead::default(), drawn: false }
    }

    /// The cell that the waiting acquire sets.
    pub(crate) fn ahead(&self) -> Ahead {
        self.ahead.clone()
    }

    /// Writes the line, or writes it anew.
    pub(crate) fn draw(&mut self) {
        let Some(by) = self.ahead.now() else { return };
        let text = output::escape(&format!("waiting for \"{}\": held by {by}", self.name));
        match self.style {
            Style::Quiet => {}
            Style::Once if self.drawn || self.since.elapsed() < Self::MIN_WAIT => return,
            Style::Once => output::print_notice(&text),
            Style::Live => {
                let text = format!("{text}; waited {}", output::format_duration(whole_seconds(self.since.elapsed())));
                let _ = write!(io::stderr(), "\r\x1b[K{}", truncate(&text, columns()));
            }
        }
        self.drawn = true;
    }
}

impl Drop for WaitingLine {
    fn drop(&mut self) {
        if self.drawn && self.style == Style::Live {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

fn whole_seconds(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs())
}

fn columns() -> usize {
    rustix::termios::tcgetwinsize(io::stderr())
        .map(|size| usize::from(size.ws_col))
        .ok()
        .filter(|n| *n > 0)
        .unwrap_or(80)
}

/// The beginning of `text` that fits on one line: a line that wraps cannot be erased.
fn truncate(text: &str, columns: usize) -> String {
    // Wide characters take two columns; counting every character beyond ASCII as two errs on the
    // short side.
    let mut left = columns.saturating_sub(1);
    let mut cut = String::new();
    for c in text.chars() {
        let width = if c.is_ascii() { 1 } else { 2 };
        if width > left {
            break;
        }
        left -= width;
        cut.push(c);
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_before_it_would_wrap() {
        assert_eq!(truncate("waiting", 80), "waiting");
        assert_eq!(truncate("waiting", 5), "wait");
        assert_eq!(truncate("日本語", 5), "日本");
    }
}
