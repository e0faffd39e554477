//! [`DeadlineFile`]: the deadline of a command, in a file; [`OuterDeadline`]: its reader inside the command.

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// The variable that names the file.
const VARIABLE: &str = "LEASEHOLD_DEADLINE";

/// A file in memory with the deadline of a command, for a `leasehold run` inside the command. It is
/// kept up to date.
///
/// It has one line: the holder, the lead, and twice the deadline. That is a moment of the boot-time
/// clock in nanoseconds; whoever reads it while it is written sees two that differ.
#[derive(Debug)]
pub(crate) struct DeadlineFile {
    file: File,
    holder: String,
    lead: u64,
}

impl DeadlineFile {
    /// A file for the command of the holder that the environment names; `None` where the system has
    /// none of the kind.
    pub(crate) fn new(lead: u64) -> Option<DeadlineFile> {
        Some(DeadlineFile { file: in_memory()?, holder: holder()?, lead })
    }

    /// The variable for the environment of the command.
    pub(crate) fn variable(&self) -> (&'static str, OsString) {
        (VARIABLE, format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into())
    }

    /// Writes the deadline.
    pub(crate) fn write(&self, until: u64) {
        let line = format!("{} {:020} {until:020} {until:020}\n", self.holder, self.lead);
        let _ = self.file.write_all_at(line.as_bytes(), 0);
    }
}

/// The deadline of the `leasehold run` around this one.
#[derive(Debug)]
pub(crate) struct OuterDeadline {
    file: File,
    lead: u64,
    known: Cell<u64>,
}

impl OuterDeadline {
    /// The file that the environment names, if it is there and of the holder that the environment
    /// names. A command that outlives the outer lease on purpose still has the variable.
    pub(crate) fn from_env() -> Option<OuterDeadline> {
        OuterDeadline::open(&std::env::var_os(VARIABLE)?, &holder()?)
    }

    fn open(path: &OsStr, holder: &str) -> Option<OuterDeadline> {
        let path = Path::new(path).starts_with("/proc").then_some(path)?;
        let file = File::open(path).ok()?;
        let outer = OuterDeadline::from_file(file)?;
        (read(&outer.file)?.holder == holder).then_some(outer)
    }

    /// Reads an open file, in another process.
    pub(crate) fn from_file(file: File) -> Option<OuterDeadline> {
        let Line { lead, until, .. } = read(&file)?;
        Some(OuterDeadline { file, lead, known: Cell::new(until) })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// The deadline now. It keeps its last value when the outer process is killed.
    pub(crate) fn until(&self) -> u64 {
        if let Some(line) = read(&self.file) {
            self.known.set(line.until);
        }
        self.known.get()
    }

    /// Time between SIGTERM and the deadline.
    pub(crate) fn lead(&self) -> u64 {
        self.lead
    }
}

fn holder() -> Option<String> {
    std::env::var("LEASEHOLD_HOLDER").ok().filter(|holder| !holder.contains(' '))
}

struct Line {
    holder: String,
    lead: u64,
    until: u64,
}

/// Reads the line; again if it was being written.
fn read(file: &File) -> Option<Line> {
    (0..3).find_map(|_| {
        let mut bytes = [0; 256];
        let length = file.read_at(&mut bytes, 0).ok()?;
        let text = std::str::from_utf8(&bytes[..length]).ok()?;
        let [holder, lead, until, again] = text.trim_end().split(' ').collect::<Vec<_>>()[..] else { return None };
        let line = Line { holder: holder.to_owned(), lead: lead.parse().ok()?, until: until.parse().ok()? };
        (until == again).then_some(line)
    })
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn in_memory() -> Option<File> {
    rustix::fs::memfd_create("leasehold-deadline", rustix::fs::MemfdFlags::CLOEXEC).ok().map(File::from)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn in_memory() -> Option<File> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_read_as_it_stands_and_only_if_it_is_the_holders() {
        let deadline = DeadlineFile { file: in_memory().unwrap(), holder: "abc".to_owned(), lead: 3 };
        let path = deadline.variable().1;
        assert!(OuterDeadline::open(&path, "abc").is_none(), "nothing was written yet");
        deadline.write(7);
        assert!(OuterDeadline::open(&path, "abd").is_none());
        let outer = OuterDeadline::open(&path, "abc").unwrap();
        assert_eq!((outer.lead(), outer.until()), (3, 7));
        deadline.write(u64::MAX);
        assert_eq!(outer.until(), u64::MAX);
        deadline.write(9);
        deadline.file.write_all_at(b"abc 00000000000000000003 1", 0).unwrap();
        assert_eq!(outer.until(), u64::MAX, "half of a line is none");
        drop(deadline);
        assert!(OuterDeadline::open(&path, "abc").is_none());
    }
}
