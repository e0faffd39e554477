//! [`FileMemory`]: the memory of a fence in a file.
//!
//! The file is text: a line with the format's version, then one [`Mark`] a line, as a checksum and JSON. Marks are
//! appended, one write and one sync each; when most of them are outdated, the file is written anew beside itself and
//! renamed. Whoever writes holds the lock of the file, and knows that this very file stands at the path: a lock file
//! beside it could be taken away, and then two would write. The file that takes its place is locked before it does.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, ErrorKind as Io, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::thread;

use tokio::sync::{Mutex, OwnedMutexGuard, oneshot};

use super::block_on::block_on;
use super::highest::{HighestTokens, Record};
use crate::sync::locked;
use crate::{Effect, Error, ErrorKind, FencingToken, Filesystem, LockName, Realm, Result, random};

/// What the first line says before the version.
const KIND: &str = "leasehold fence ";
const HEADER: &str = "leasehold fence 1\n";
/// Outdated marks that a file may have before it is written anew, beside as many as it has names.
const MAX_OUTDATED_RECORDS: usize = 1_000;

/// The memory of a fence in a file.
pub(super) struct FileMemory {
    path: PathBuf,
    pub(super) filesystem: Filesystem,
    // A tokio mutex, so that at most one thread for each fence waits for other processes.
    state: Arc<Mutex<State>>,
}

struct State {
    path: PathBuf,
    book: Journal,
    tenure: Weak<FileLock>,
}

/// What was read of the file, and where that ends.
struct Journal {
    file: File,
    /// This user may write to it.
    is_writable: bool,
    marks: HighestTokens,
    /// Where the next mark goes.
    end: u64,
    /// How many marks there are, outdated ones too.
    lines: usize,
    /// Behind `end` there is nothing; else the file is written anew before it is written to.
    clean: bool,
}

/// The time in which this handle has passes out: it holds the file's lock, which ends when the last pass is dropped.
pub(super) struct FileLock {
    // Another one, as soon as another file has taken its place.
    locked: std::sync::Mutex<File>,
}

impl FileMemory {
    /// The fence at `path`, which is made if it is missing, unless it must exist.
    pub(super) fn open(path: &Path, existing: bool) -> Result<FileMemory> {
        let path = resolve(path)?;
        let book = match Journal::open(&path) {
            Err(OpenError::Missing) if existing => {
                return Err(invalid(format!("there is no fence {}", path.display())));
            }
            Err(OpenError::Missing) => {
                create(&path)?;
                Journal::open(&path)?
            }
            book => book?,
        };
        let filesystem = Filesystem::of(&path).map_err(|error| io_error("opened", &path, error))?;
        if filesystem != Filesystem::Disk {
            tracing::warn!(path = %path.display(), ?filesystem, "the fence is not on a local disk: see Fence::filesystem");
        }
        let state = State { path: path.clone(), book, tenure: Weak::new() };
        Ok(FileMemory { path, filesystem, state: Arc::new(Mutex::new(state)) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) async fn enter(&self, name: &LockName, token: &FencingToken) -> Result<Arc<FileLock>> {
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|_| invalid("a fence in a file is entered inside a tokio runtime, or with enter_blocking"))?;
        let state = self.state.clone().lock_owned().await;
        let (name, token) = (name.clone(), token.clone());
        let mut entry = Entry { state, name, token };
        let at_once = runtime.spawn_blocking(move || (entry.try_enter(), entry)).await;
        let (entered, mut entry) = at_once.map_err(|_| interrupted())?;
        if let Some(tenure) = entered? {
            return Ok(tenure);
        }
        // Another process may keep its pass for long, and a runtime does not end before its blocking tasks: so this
        // waits on a thread that nobody waits for.
        let (tell, told) = oneshot::channel();
        let waiting = thread::Builder::new().name("leasehold-fence".to_owned());
        waiting
            .spawn(move || tell.send(entry.enter_waiting()))
            .map_err(|error| io_error("entered", &self.path, error))?;
        told.await.map_err(|_| interrupted())?
    }

    pub(super) fn enter_blocking(&self, name: &LockName, token: &FencingToken) -> Result<Arc<FileLock>> {
        Entry { state: self.state(), name: name.clone(), token: token.clone() }.enter_waiting()
    }

    pub(super) fn adopt(&self, realm: &Realm) -> Result<()> {
        let mut state = self.state();
        let tenure = state.file_lock_waiting()?;
        match state.book.marks.adopt(realm) {
            Some(mark) => state.append(&tenure, mark),
            None => Ok(()),
        }
    }

    /// What the file says now. It needs no lock: what another process has not finished writing counts for nothing yet.
    pub(super) fn read(&self) -> Result<HighestTokens> {
        Ok(Journal::open(&self.path).map_err(|error| missing(error, &self.path))?.marks)
    }

    fn state(&self) -> OwnedMutexGuard<State> {
        block_on(self.state.clone().lock_owned())
    }
}

/// Somebody who enters, with the turn to do so.
struct Entry {
    state: OwnedMutexGuard<State>,
    name: LockName,
    token: FencingToken,
}

impl Entry {
    /// Enters unless another process or handle is in the way.
    fn try_enter(&mut self) -> Result<Option<Arc<FileLock>>> {
        match self.state.file_lock(false)? {
            Some(tenure) => self.state.admit(&tenure, &self.name, &self.token).map(|()| Some(tenure)),
            None => Ok(None),
        }
    }

    /// Enters as soon as nobody else is in the way.
    fn enter_waiting(&mut self) -> Result<Arc<FileLock>> {
        let tenure = self.state.file_lock_waiting()?;
        self.state.admit(&tenure, &self.name, &self.token)?;
        Ok(tenure)
    }
}

impl State {
    /// Admits the token, after it is on disk.
    fn admit(&mut self, tenure: &FileLock, name: &LockName, token: &FencingToken) -> Result<()> {
        match self.book.marks.admit(name, token)? {
            Some(mark) => self.append(tenure, mark),
            None => Ok(()),
        }
    }

    /// The lock of the file, shared by all passes of this handle; when it was free in between, others may have written.
    /// `None` if another process or handle has it, and this shall not wait.
    fn file_lock(&mut self, wait: bool) -> Result<Option<Arc<FileLock>>> {
        if let Some(tenure) = self.tenure.upgrade() {
            return Ok(Some(tenure));
        }
        let Some(tenure) = FileLock::begin(&self.path, wait)? else { return Ok(None) };
        let tenure = Arc::new(tenure);
        self.book.catch_up(&self.path)?;
        self.tenure = Arc::downgrade(&tenure);
        Ok(Some(tenure))
    }

    fn file_lock_waiting(&mut self) -> Result<Arc<FileLock>> {
        Ok(self.file_lock(true)?.expect("BUG: who waits for the lock of a file has it then"))
    }

    fn append(&mut self, tenure: &FileLock, mark: Record) -> Result<()> {
        if !self.book.is_writable {
            return Err(io_error("written", &self.path, Io::PermissionDenied.into()));
        }
        if self.book.clean && self.book.lines <= 2 * self.book.marks.len() + MAX_OUTDATED_RECORDS {
            return self.book.append(mark).map_err(|error| io_error("written", &self.path, error));
        }
        let mut marks = self.book.marks.clone();
        marks.apply(mark);
        // Until it has succeeded, what is in the file is what was there before.
        self.book = Journal::write(&self.path, &marks, tenure)?;
        Ok(())
    }
}

impl Journal {
    fn open(path: &Path) -> Result<Journal, OpenError> {
        let open = |error: io::Error| match error.kind() {
            Io::NotFound => OpenError::Missing,
            _ => OpenError::Other(io_error("opened", path, error)),
        };
        let found = fs::metadata(path).map_err(open)?;
        if !found.is_file() {
            return Err(OpenError::Other(invalid(format!("{} is no file, and so no fence", path.display()))));
        }
        check_alone(path, &found)?;
        let opened = OpenOptions::new().read(true).write(true).open(path);
        let (file, is_writable) = match opened {
            // To look at it, reading is enough.
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
        let mut book = Journal { file, is_writable, marks: HighestTokens::default(), end, lines: 0, clean: true };
        book.read_on(path)?;
        Ok(book)
    }

    /// Writes a whole file that takes the place of the one at `path` in one step, and has the tenure lock it before.
    fn write(path: &Path, marks: &HighestTokens, tenure: &FileLock) -> Result<Journal> {
        let failed = |error| io_error("written", path, error);
        let mut text = HEADER.to_owned();
        let mut lines = 0;
        for mark in marks.marks() {
            text.push_str(&line(&mark));
            lines += 1;
        }
        let fresh = beside(path, ".new");
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != Io::NotFound => return Err(failed(error)),
            _ => {}
        }
        let file = fresh_file(&fresh).map_err(failed)?;
        // A fence that root raises stays the fence of the user that enters it.
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
        *locked(&tenure.locked) = lock;
        sync_directory(path).map_err(failed)?;
        Ok(Journal { file, is_writable: true, marks: marks.clone(), end: text.len() as u64, lines, clean: true })
    }

    /// Puts one more mark on disk.
    fn append(&mut self, mark: Record) -> io::Result<()> {
        let line = line(&mark);
        // After a failed write or sync nobody knows what is behind `end`, nor whether a second sync would tell.
        self.clean = false;
        self.file.write_all_at(line.as_bytes(), self.end)?;
        self.file.sync_data()?;
        self.clean = true;
        self.end += line.len() as u64;
        self.lines += 1;
        self.marks.apply(mark);
        Ok(())
    }

    /// Reads what others wrote since.
    fn catch_up(&mut self, path: &Path) -> Result<()> {
        let now = metadata(path)?;
        // Our open file keeps its number from being given to another.
        if is_same(&now, &self.file.metadata().map_err(|error| io_error("read", path, error))?) {
            return match now.len() {
                len if len < self.end => Err(went_back(path)),
                len if len == self.end => Ok(()),
                _ => self.read_on(path),
            };
        }
        let book = Journal::open(path).map_err(|error| missing(error, path))?;
        if !book.marks.follow(&self.marks) {
            return Err(went_back(path));
        }
        *self = book;
        Ok(())
    }

    /// Reads from `end`. What a torn write left at the very end counts for nothing: its pass was never given out.
    /// Anything else that is no mark is damage.
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
            // A line has no NUL; a file that was made longer before its data came to disk has.
            let is_torn = left == 0 && (!is_finished || line.contains(&0));
            let written = line.iter().rposition(|byte| *byte != 0).map_or(&line[..0], |last| &line[..=last]);
            match parse(written) {
                Some(mark) => {
                    self.marks.apply(mark);
                    self.lines += 1;
                }
                // Something stands where a whole mark has its end: that was no torn write, and its pass was given out.
                None if is_torn && written.split_last().is_none_or(|(_, mark)| parse(mark).is_none()) => {}
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

/// A file, read from a place on.
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

impl FileLock {
    /// Takes the lock of the fence at `path`; `None` if another has it, and this shall not wait.
    fn begin(path: &Path, wait: bool) -> Result<Option<FileLock>> {
        loop {
            let file = File::open(path).map_err(|error| match error.kind() {
                Io::NotFound => missing(OpenError::Missing, path),
                _ => io_error("locked", path, error),
            })?;
            let taken = if wait { file.lock().map_err(TryLockError::Error) } else { file.try_lock() };
            match taken {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) if error.kind() == Io::Interrupted => continue,
                Err(TryLockError::Error(error)) => return Err(io_error("locked", path, error)),
            }
            // While this waited, another file may have taken its place: then its lock counts.
            let found = metadata(path)?;
            if is_same(&found, &file.metadata().map_err(|error| io_error("locked", path, error))?) {
                check_alone(path, &found)?;
                return Ok(Some(FileLock { locked: std::sync::Mutex::new(file) }));
            }
        }
    }
}

/// Makes an empty fence at `path`, unless somebody else has made it meanwhile.
fn create(path: &Path) -> Result<()> {
    let failed = |error| io_error("made", path, error);
    let fresh = beside(path, &format!(".new-{:x}", random::bits128()));
    let file = fresh_file(&fresh).map_err(failed)?;
    let made =
        file.write_all_at(HEADER.as_bytes(), 0).and_then(|()| file.sync_all()).and_then(|()| place(&fresh, path));
    if let Err(error) = made {
        let _ = fs::remove_file(&fresh);
        return if error.kind() == Io::AlreadyExists { Ok(()) } else { Err(failed(error)) };
    }
    // The new name is not on disk before its directory is.
    sync_directory(path).map_err(failed)
}

/// Renames to a name that nobody has.
#[cfg(any(target_os = "linux", target_vendor = "apple"))]
fn place(fresh: &Path, path: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, fresh, CWD, path, RenameFlags::NOREPLACE)?)
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn place(fresh: &Path, path: &Path) -> io::Result<()> {
    fs::hard_link(fresh, path)?;
    fs::remove_file(fresh)
}

/// A file that nobody had before; a link that stands there is not followed.
fn fresh_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(directory(path))?.sync_all()
}

fn metadata(path: &Path) -> Result<Metadata> {
    fs::metadata(path).map_err(|error| match error.kind() {
        Io::NotFound => missing(OpenError::Missing, path),
        _ => io_error("read", path, error),
    })
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Checks that nobody can come to the fence by another path: when it is written anew, that one would lead to what it was
/// before, and admit old holders.
fn check_alone(path: &Path, found: &Metadata) -> Result<()> {
    if found.nlink() > 1 {
        return Err(invalid(format!(
            "the fence {} has {} names (hard links), and would become as many fences; leave it one name, or use symbolic links",
            path.display(),
            found.nlink()
        )));
    }
    if Filesystem::is_mounted_alone(path).map_err(|error| io_error("opened", path, error))? {
        return Err(invalid(format!(
            "the fence {} is mounted here as a single file, and would become two fences; mount its folder",
            path.display()
        )));
    }
    Ok(())
}

/// Why a file was not opened.
enum OpenError {
    Missing,
    Other(Error),
}

impl From<Error> for OpenError {
    fn from(error: Error) -> OpenError {
        OpenError::Other(error)
    }
}

impl From<OpenError> for Error {
    fn from(error: OpenError) -> Error {
        match error {
            OpenError::Missing => invalid("the file of the fence is missing"),
            OpenError::Other(error) => error,
        }
    }
}

/// A mark as a line.
fn line(mark: &Record) -> String {
    let json = serde_json::to_string(mark).expect("BUG: a mark has strings and numbers only");
    format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()))
}

fn parse(line: &[u8]) -> Option<Record> {
    let (sum, json) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    let sum = (sum.len() == 8).then(|| u32::from_str_radix(sum, 16).ok())??;
    (sum == crc32fast::hash(json.as_bytes())).then(|| serde_json::from_str(json).ok())?
}

fn corrupt(path: &Path, at: u64) -> Error {
    invalid(format!(
        "the fence in {} is damaged at byte {at}: it is not used, since a fence that forgets admits old holders; put no \
         older copy back, but make sure that nobody holds a lock of it, remove it, and raise a new one to the tokens that \
         the store gives next",
        path.display()
    ))
}

fn check_version(start: &[u8], path: &Path) -> Result<()> {
    if start.starts_with(HEADER.as_bytes()) {
        return Ok(());
    }
    let path = path.display();
    let version = start.strip_prefix(KIND.as_bytes()).and_then(|rest| rest.split(|byte| *byte == b'\n').next());
    let version = version.and_then(|version| std::str::from_utf8(version).ok()?.parse::<u32>().ok());
    Err(invalid(match version.filter(|version| *version != 1) {
        Some(version) => format!("the fence in {path} has format {version}; this version of leasehold reads format 1"),
        None if start.is_empty() => format!(
            "{path} is empty, and no fence: it is not taken for a new one, since a fence that forgets admits old \
             holders; remove it if it never was one"
        ),
        None => format!("{path} is no fence: its first line is not {:?}", HEADER.trim_end()),
    }))
}

/// The path without symbolic links: what is renamed to it takes the file's place for all.
fn resolve(path: &Path) -> Result<PathBuf> {
    let refuse = |error: io::Error| match error.kind() {
        Io::NotFound => invalid(format!("there is no directory {} for a fence", directory(path).display())),
        _ => io_error("opened", path, error),
    };
    match fs::canonicalize(path) {
        Err(error) if error.kind() == Io::NotFound => {
            if fs::symlink_metadata(path).is_ok() {
                return Err(invalid(format!(
                    "{} is a link to a file that does not exist, and so no fence",
                    path.display()
                )));
            }
            let name = path.file_name().ok_or_else(|| invalid(format!("{} names no file", path.display())))?;
            Ok(fs::canonicalize(directory(path)).map_err(refuse)?.join(name))
        }
        path => path.map_err(refuse),
    }
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn invalid(message: impl Into<String>) -> Error {
    Error::refused(ErrorKind::InvalidConfig, message)
}

fn missing(error: OpenError, path: &Path) -> Error {
    match error {
        OpenError::Missing => invalid(format!(
            "the fence in {} was removed while it was in use: nothing is admitted until it is opened again",
            path.display()
        )),
        OpenError::Other(error) => error,
    }
}

fn interrupted() -> Error {
    Error::new(ErrorKind::Unavailable, Effect::Unknown, "the fence was not entered: what did so ended before its time")
}

fn went_back(path: &Path) -> Error {
    invalid(format!(
        "the fence in {} knows less than before: an older copy was put in its place; nothing is admitted, since a fence \
         that forgets admits old holders",
        path.display()
    ))
}

fn io_error(what: &str, path: &Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        Io::PermissionDenied | Io::ReadOnlyFilesystem => ErrorKind::Denied,
        Io::IsADirectory | Io::NotADirectory | Io::InvalidInput | Io::InvalidFilename => ErrorKind::InvalidConfig,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, Effect::Unknown, format!("the fence in {} cannot be {what}: {error}", path.display()))
        .with_source(error)
}
