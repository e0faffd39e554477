//! [`Journal`]: the append-only records of a fence's file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind as Io, Read};
use std::os::unix::fs::{FileExt, MetadataExt, fchown};
use std::path::Path;

use super::file_error::{OpenError, io_error, missing, went_back};
use super::file_lock::FileLock;
use super::format::{HEADER, KIND, check_version, corrupt, line, parse};
use super::highest::{HighestTokens, Record};
use super::path::{beside, check_alone, fresh_file, is_same, metadata, sync_directory};
use crate::sync::locked;
use crate::words::{Error, Result};

/// The records read so far, and the position where they end.
pub(super) struct Journal {
    file: File,
    /// True if this user may write to the file.
    pub(super) is_writable: bool,
    pub(super) tokens: HighestTokens,
    /// Position of the next record.
    end: u64,
    /// Number of records, including outdated ones.
    pub(super) lines: usize,
    /// True if the file ends at `end`. Otherwise it is rewritten before the next record.
    pub(super) clean: bool,
}

impl Journal {
    pub(super) fn open(path: &Path) -> Result<Journal, OpenError> {
        let open = |error: io::Error| match error.kind() {
            Io::NotFound => OpenError::Missing,
            _ => OpenError::Other(io_error("opened", path, error)),
        };
        let found = fs::metadata(path).map_err(open)?;
        if !found.is_file() {
            return Err(OpenError::Other(Error::invalid_config(format!(
                "{} is no file, and so no fence",
                path.display()
            ))));
        }
        check_alone(path, &found)?;
        let opened = OpenOptions::new().read(true).write(true).open(path);
        let (file, is_writable) = match opened {
            // Reading is enough to show the fence.
            Err(error) if matches!(error.kind(), Io::PermissionDenied | Io::ReadOnlyFilesystem) => {
                (File::open(path).map_err(open)?, false)
            }
            file => (file.map_err(open)?, true),
        };
        Ok(Journal::of(file, is_writable, path)?)
    }

    fn of(file: File, is_writable: bool, path: &Path) -> Result<Journal> {
        let mut start = Vec::new();
        (&file).take(KIND.len() as u64 + 20).read_to_end(&mut start).map_err(|error| io_error("read", path, error))?;
        check_version(&start, path)?;
        let end = HEADER.len() as u64;
        let mut journal = Journal { file, is_writable, tokens: HighestTokens::default(), end, lines: 0, clean: true };
        journal.read_on(path)?;
        Ok(journal)
    }

    /// Writes a new file and renames it over the one at `path`. `file_lock` locks the new file
    /// before the rename.
    pub(super) fn write(path: &Path, tokens: &HighestTokens, file_lock: &FileLock) -> Result<Journal> {
        let failed = |error| io_error("written", path, error);
        let mut text = HEADER.to_owned();
        let mut lines = 0;
        for record in tokens.records() {
            text.push_str(&line(&record));
            lines += 1;
        }
        let fresh = beside(path, ".new");
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != Io::NotFound => return Err(failed(error)),
            _ => {}
        }
        let file = fresh_file(&fresh).map_err(failed)?;
        // A fence that root raises must stay the property of the user that enters it.
        if let Ok(before) = fs::metadata(path) {
            let now = file.metadata().map_err(failed)?;
            if (before.uid(), before.gid()) != (now.uid(), now.gid()) {
                fchown(&file, Some(before.uid()), Some(before.gid())).map_err(failed)?;
            }
            file.set_permissions(before.permissions()).map_err(failed)?;
        }
        file.write_all_at(text.as_bytes(), 0).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        let lock = File::open(&fresh).map_err(failed)?;
        lock.try_lock().map_err(|error| failed(error.into()))?;
        fs::rename(&fresh, path).map_err(failed)?;
        *locked(&file_lock.locked) = lock;
        sync_directory(path).map_err(failed)?;
        Ok(Journal { file, is_writable: true, tokens: tokens.clone(), end: text.len() as u64, lines, clean: true })
    }

    /// Appends a record and syncs it to disk.
    pub(super) fn append(&mut self, record: Record) -> io::Result<()> {
        let line = line(&record);
        // After a failed write or sync it is unknown what is behind `end`, and a second sync need
        // not report it.
        self.clean = false;
        self.file.write_all_at(line.as_bytes(), self.end)?;
        self.file.sync_data()?;
        self.clean = true;
        self.end += line.len() as u64;
        self.lines += 1;
        self.tokens.apply(record);
        Ok(())
    }

    /// Reads the records that others have written since.
    pub(super) fn catch_up(&mut self, path: &Path) -> Result<()> {
        let now = metadata(path)?;
        // The open file keeps its inode number from being reused.
        if is_same(&now, &self.file.metadata().map_err(|error| io_error("read", path, error))?) {
            return match now.len() {
                len if len < self.end => Err(went_back(path)),
                len if len == self.end => Ok(()),
                _ => self.read_on(path),
            };
        }
        let journal = Journal::open(path).map_err(|error| missing(error, path))?;
        if !journal.tokens.follow(&self.tokens) {
            return Err(went_back(path));
        }
        *self = journal;
        Ok(())
    }

    /// Reads from `end`. A torn write at the very end is ignored: its pass was never given out.
    /// Anything else that is not a record is damage.
    fn read_on(&mut self, path: &Path) -> Result<()> {
        let failed = |error| io_error("read", path, error);
        let mut left = self.file.metadata().map_err(failed)?.len().saturating_sub(self.end);
        let file = self.file.try_clone().map_err(failed)?;
        let mut lines = BufReader::with_capacity(1 << 16, ReadAt { file: &file, at: self.end }.take(left));
        self.clean = true;
        let mut line = Vec::new();
        while left > 0 {
            line.clear();
            let length = lines.read_until(b'\n', &mut line).map_err(failed)? as u64;
            if length == 0 {
                return Err(failed(Io::UnexpectedEof.into()));
            }
            left -= length;
            let is_finished = line.pop_if(|last| *last == b'\n').is_some();
            // A line has no NUL; a file that was extended before its data reached the disk has.
            let is_torn = left == 0 && (!is_finished || line.contains(&0));
            let written = line.iter().rposition(|byte| *byte != 0).map_or(&line[..0], |last| &line[..=last]);
            match parse(written) {
                Some(record) => {
                    self.tokens.apply(record);
                    self.lines += 1;
                }
                // A whole record with another byte in place of its newline is no torn write: its
                // pass was given out.
                None if is_torn && written.split_last().is_none_or(|(_, record)| parse(record).is_none()) => {}
                None => return Err(corrupt(path, self.end)),
            }
            if is_torn {
                self.clean = false;
                break;
            }
            self.end += length;
        }
        Ok(())
    }
}

/// A file, read from a position on.
struct ReadAt<'f> {
    file: &'f File,
    at: u64,
}

impl Read for ReadAt<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}
