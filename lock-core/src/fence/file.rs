//! [`FileMemory`]: the memory of a fence in a file.
//!
//! The file is text: a line with the format's version, then one [`Mark`] a line, as a checksum and JSON. Marks are
//! appended, one write and one sync each; when most of them are outdated, the file is written anew beside itself and
//! renamed. Whoever writes holds the lock of `<file>.lock`, since the file itself is replaced.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind as Io, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::thread;

use tokio::sync::{Mutex, OwnedMutexGuard, oneshot};

use super::block_on::block_on;
use super::marks::{Mark, Marks};
use crate::{Effect, Error, ErrorKind, FencingToken, LockName, Realm, Result};

/// What the first line says before the version.
const KIND: &str = "leasehold fence ";
const HEADER: &str = "leasehold fence 1\n";
/// Outdated marks that a file may have before it is written anew, beside as many as it has names.
const SPARE: usize = 1_000;

/// The memory of a fence in a file.
pub(super) struct FileMemory {
    path: PathBuf,
    // A tokio mutex, so that at most one thread for each fence waits for other processes.
    state: Arc<Mutex<State>>,
}

struct State {
    path: PathBuf,
    book: Book,
    tenure: Weak<Tenure>,
}

/// What was read of the file, and where that ends.
struct Book {
    file: File,
    marks: Marks,
    /// Where the next mark goes.
    end: u64,
    /// How many marks there are, outdated ones too.
    lines: usize,
    /// Behind `end` there is nothing; else the file is written anew before it is written to.
    clean: bool,
}

/// The time in which this handle has passes out: it holds the file's lock, which ends when the last pass is dropped.
pub(super) struct Tenure {
    _locked: File,
}

impl FileMemory {
    pub(super) fn open(path: &Path) -> Result<FileMemory> {
        let path = resolve(path)?;
        let book = match Book::open(&path) {
            Err(OpenError::Missing) => {
                let _tenure = Tenure::begin(&path, true)?;
                match Book::open(&path) {
                    Err(OpenError::Missing) => Book::write(&path, &Marks::default())?,
                    book => book?,
                }
            }
            book => book?,
        };
        let state = State { path: path.clone(), book, tenure: Weak::new() };
        Ok(FileMemory { path, state: Arc::new(Mutex::new(state)) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) async fn enter(&self, name: &LockName, token: &FencingToken) -> Result<Arc<Tenure>> {
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|_| invalid("a fence in a file is entered inside a tokio runtime, or with enter_blocking"))?;
        let state = self.state.clone().lock_owned().await;
        let (name, token) = (name.clone(), token.clone());
        let mut entry = Entry { state, name, token };
        let at_once = runtime.spawn_blocking(move || (entry.at_once(), entry)).await;
        let (entered, mut entry) = at_once.map_err(|_| cut_off())?;
        if let Some(tenure) = entered? {
            return Ok(tenure);
        }
        // Another process may keep its pass for long, and a runtime does not end before its blocking tasks: so this
        // waits on a thread that nobody waits for.
        let (tell, told) = oneshot::channel();
        let waiting = thread::Builder::new().name("leasehold-fence".to_owned());
        waiting.spawn(move || tell.send(entry.waiting())).map_err(|error| failed("entered", &self.path, error))?;
        told.await.map_err(|_| cut_off())?
    }

    pub(super) fn enter_blocking(&self, name: &LockName, token: &FencingToken) -> Result<Arc<Tenure>> {
        Entry { state: self.state(), name: name.clone(), token: token.clone() }.waiting()
    }

    pub(super) fn adopt(&self, realm: &Realm) -> Result<()> {
        let mut state = self.state();
        let _tenure = state.tenure(true)?;
        match state.book.marks.adopt(realm) {
            Some(mark) => state.keep(mark),
            None => Ok(()),
        }
    }

    /// What the file says now. It needs no lock: what another process has not finished writing counts for nothing yet.
    pub(super) fn read(&self) -> Result<Marks> {
        Ok(Book::open(&self.path).map_err(|error| gone(error, &self.path))?.marks)
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
    fn at_once(&mut self) -> Result<Option<Arc<Tenure>>> {
        match self.state.tenure(false)? {
            Some(tenure) => self.state.admit(&self.name, &self.token).map(|()| Some(tenure)),
            None => Ok(None),
        }
    }

    /// Enters as soon as nobody else is in the way.
    fn waiting(&mut self) -> Result<Arc<Tenure>> {
        let tenure = self.state.tenure(true)?.expect("BUG: who waits for the lock of a file has it then");
        self.state.admit(&self.name, &self.token)?;
        Ok(tenure)
    }
}

impl State {
    /// Admits the token, after it is on disk; in a tenure only.
    fn admit(&mut self, name: &LockName, token: &FencingToken) -> Result<()> {
        match self.book.marks.admit(name, token)? {
            Some(mark) => self.keep(mark),
            None => Ok(()),
        }
    }

    /// The lock of the file, shared by all passes of this handle; when it was free in between, others may have written.
    /// `None` if another process or handle has it, and this shall not wait.
    fn tenure(&mut self, wait: bool) -> Result<Option<Arc<Tenure>>> {
        if let Some(tenure) = self.tenure.upgrade() {
            return Ok(Some(tenure));
        }
        let Some(tenure) = Tenure::begin(&self.path, wait)? else { return Ok(None) };
        let tenure = Arc::new(tenure);
        self.book.catch_up(&self.path)?;
        self.tenure = Arc::downgrade(&tenure);
        Ok(Some(tenure))
    }

    fn keep(&mut self, mark: Mark) -> Result<()> {
        if self.book.clean && self.book.lines <= 2 * self.book.marks.len() + SPARE {
            return self.book.append(mark).map_err(|error| failed("written", &self.path, error));
        }
        let mut marks = self.book.marks.clone();
        marks.apply(mark);
        // Until it has succeeded, what is in the file is what was there before.
        self.book = Book::write(&self.path, &marks)?;
        Ok(())
    }
}

impl Book {
    fn open(path: &Path) -> Result<Book, OpenError> {
        let open = |error: io::Error| match error.kind() {
            Io::NotFound => OpenError::Missing,
            _ => OpenError::Other(failed("opened", path, error)),
        };
        if !fs::metadata(path).map_err(open)?.is_file() {
            return Err(OpenError::Other(invalid(format!("{} is no file, and so no fence", path.display()))));
        }
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(open)?;
        Ok(Book::of(file, path)?)
    }

    fn of(file: File, path: &Path) -> Result<Book> {
        let mut start = Vec::new();
        (&file).take(KIND.len() as u64 + 20).read_to_end(&mut start).map_err(|error| failed("read", path, error))?;
        check_version(&start, path)?;
        let mut book = Book { file, marks: Marks::default(), end: HEADER.len() as u64, lines: 0, clean: true };
        book.read_on(path)?;
        Ok(book)
    }

    /// Writes a whole file that takes the place of the one at `path` in one step.
    fn write(path: &Path, marks: &Marks) -> Result<Book> {
        let failed = |error| failed("written", path, error);
        let mut text = HEADER.to_owned();
        let mut lines = 0;
        for mark in marks.marks() {
            text.push_str(&line(&mark));
            lines += 1;
        }
        let fresh = beside(path, ".new");
        let mut options = OpenOptions::new();
        let file =
            options.read(true).write(true).create(true).truncate(true).mode(0o600).open(&fresh).map_err(failed)?;
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
        fs::rename(&fresh, path).map_err(failed)?;
        // The new name is not on disk before its directory is.
        File::open(directory(path)).and_then(|directory| directory.sync_all()).map_err(failed)?;
        Ok(Book { file, marks: marks.clone(), end: text.len() as u64, lines, clean: true })
    }

    /// Puts one more mark on disk.
    fn append(&mut self, mark: Mark) -> io::Result<()> {
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
        let same = |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        let now = fs::metadata(path).map_err(|error| match error.kind() {
            Io::NotFound => gone(OpenError::Missing, path),
            _ => failed("read", path, error),
        })?;
        // Our open file keeps its number from being given to another.
        if same(&now, &self.file.metadata().map_err(|error| failed("read", path, error))?) {
            return match now.len() {
                len if len < self.end => Err(went_back(path)),
                len if len == self.end => Ok(()),
                _ => self.read_on(path),
            };
        }
        let book = Book::open(path).map_err(|error| gone(error, path))?;
        if !book.marks.follow(&self.marks) {
            return Err(went_back(path));
        }
        *self = book;
        Ok(())
    }

    /// Reads from `end`. What a torn write left at the very end counts for nothing: its pass was never given out.
    /// Anything else that is no mark is damage.
    fn read_on(&mut self, path: &Path) -> Result<()> {
        let failed = |error| failed("read", path, error);
        let len = self.file.metadata().map_err(failed)?.len();
        let mut bytes = vec![0; usize::try_from(len.saturating_sub(self.end)).unwrap_or(usize::MAX)];
        self.file.read_exact_at(&mut bytes, self.end).map_err(failed)?;
        self.clean = true;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (line, next) = match rest.iter().position(|byte| *byte == b'\n') {
                Some(at) => (&rest[..at], &rest[at + 1..]),
                None => (rest, &rest[rest.len()..]),
            };
            let finished = line.len() < rest.len();
            match parse(line) {
                Some(mark) => {
                    self.marks.apply(mark);
                    self.lines += 1;
                }
                // A line has no NUL; a file that was made longer before its data came to disk has.
                None if next.is_empty() && (!finished || line.contains(&0)) => {}
                None => {
                    return Err(invalid(format!(
                        "the fence in {} is damaged at byte {}: it is not used, since a fence that forgets admits old \
                         holders; put no older copy back, but make sure that nobody holds a lock of it, remove it, and \
                         raise a new one to the tokens that the store gives next",
                        path.display(),
                        self.end
                    )));
                }
            }
            if !finished || line.contains(&0) {
                self.clean = false;
                break;
            }
            self.end += line.len() as u64 + 1;
            rest = next;
        }
        Ok(())
    }
}

impl Tenure {
    /// Takes the lock of the fence at `path`; `None` if another has it, and this shall not wait.
    fn begin(path: &Path, wait: bool) -> Result<Option<Tenure>> {
        let path = beside(path, ".lock");
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(|error| failed("locked", &path, error))?;
        loop {
            let locked = if wait { file.lock().map_err(TryLockError::Error) } else { file.try_lock() };
            match locked {
                Ok(()) => return Ok(Some(Tenure { _locked: file })),
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) if error.kind() == Io::Interrupted => {}
                Err(TryLockError::Error(error)) => return Err(failed("locked", &path, error)),
            }
        }
    }
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
fn line(mark: &Mark) -> String {
    let json = serde_json::to_string(mark).expect("BUG: a mark has strings and numbers only");
    format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()))
}

fn parse(line: &[u8]) -> Option<Mark> {
    let (sum, json) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    let sum = (sum.len() == 8).then(|| u32::from_str_radix(sum, 16).ok())??;
    (sum == crc32fast::hash(json.as_bytes())).then(|| serde_json::from_str(json).ok())?
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

/// The path by which every handle of this file finds the same lock beside it.
fn resolve(path: &Path) -> Result<PathBuf> {
    let refuse = |error: io::Error| match error.kind() {
        Io::NotFound => invalid(format!("there is no directory {} for a fence", directory(path).display())),
        _ => failed("opened", path, error),
    };
    match fs::canonicalize(path) {
        Err(error) if error.kind() == Io::NotFound => {
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

fn gone(error: OpenError, path: &Path) -> Error {
    match error {
        OpenError::Missing => invalid(format!(
            "the fence in {} was removed while it was in use: nothing is admitted until it is opened again",
            path.display()
        )),
        OpenError::Other(error) => error,
    }
}

fn cut_off() -> Error {
    Error::new(ErrorKind::Unavailable, Effect::Unknown, "the fence was not entered: what did so ended before its time")
}

fn went_back(path: &Path) -> Error {
    invalid(format!(
        "the fence in {} knows less than before: an older copy was put in its place; nothing is admitted, since a fence \
         that forgets admits old holders",
        path.display()
    ))
}

fn failed(what: &str, path: &Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        Io::PermissionDenied | Io::ReadOnlyFilesystem => ErrorKind::Denied,
        Io::IsADirectory | Io::NotADirectory | Io::InvalidInput | Io::InvalidFilename => ErrorKind::InvalidConfig,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, Effect::Unknown, format!("the fence in {} cannot be {what}: {error}", path.display()))
        .with_source(error)
}
