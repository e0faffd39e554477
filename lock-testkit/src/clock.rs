//! [`WallClock`]: a wall clock that a test sets.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// A wall clock that a test sets, for the servers that are started with it. It moves no other
/// clock.
///
/// It is a small library of this crate, built with `cc` and preloaded: `faketime` does not work
/// with the allocator of Debian's Redis.
#[derive(Debug)]
pub struct WallClock {
    folder: TempDir,
    offset: File,
}

impl Default for WallClock {
    #[track_caller]
    fn default() -> WallClock {
        WallClock::new()
    }
}

impl WallClock {
    /// A clock that shows the machine's time.
    ///
    /// # Panics
    ///
    /// If it cannot be built.
    #[track_caller]
    pub fn new() -> WallClock {
        let folder = tempfile::tempdir().expect("a folder for a clock");
        let source = folder.path().join("clock.c");
        fs::write(&source, include_str!("clock.c")).expect("the clock's source is written");
        let offset = File::create(folder.path().join("offset")).expect("a file for an offset");
        let clock = WallClock { folder, offset };
        let built =
            Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(clock.library()).arg(source).output();
        match built {
            Ok(built) => assert!(built.status.success(), "no clock: {}", String::from_utf8_lossy(&built.stderr)),
            Err(error) => panic!("cc cannot be started: {error}; ./test.sh installs what the tests need"),
        }
        clock.set(0);
        clock
    }

    fn library(&self) -> PathBuf {
        self.folder.path().join("clock.so")
    }

    /// Sets the clock this many seconds ahead of the machine's, or behind it.
    ///
    /// # Panics
    ///
    /// If its file cannot be written.
    #[track_caller]
    pub fn set(&self, ahead: i64) {
        // Always the same length, so that a concurrent reader sees the old or the new value.
        self.offset.write_all_at(format!("{ahead:+020}").as_bytes(), 0).expect("an offset is written");
    }

    /// Lets the program that this command starts read this clock.
    pub fn preload_into(&self, command: &mut Command) {
        command.env("LD_PRELOAD", self.library()).env("LEASEHOLD_CLOCK_OFFSET", self.folder.path().join("offset"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_reads_the_clock_that_was_set() {
        let clock = WallClock::new();
        let year = || {
            let mut command = Command::new("date");
            clock.preload_into(command.arg("+%Y"));
            let said = command.output().expect("date runs");
            String::from_utf8_lossy(&said.stdout).trim().parse::<i32>().expect("a year")
        };
        let before = year();
        clock.set(2 * 366 * 24 * 3600);
        assert!(year() > before);
        clock.set(-2 * 366 * 24 * 3600);
        assert!(year() < before);
    }
}
