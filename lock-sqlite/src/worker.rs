//! [`Worker`]: the one thread that owns the connection.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use lock_core::{Error, ErrorKind, Result};

use crate::error::{self, Failure};
use crate::file::LockFile;
use crate::filesystem::Filesystem;
use crate::job::Task;
use crate::machine::Machine;
use crate::shared::Shared;
use crate::tables::Tables;
use crate::{SqliteConfig, schema};

/// So many steps are done in one transaction at most: enough to share the cost of a sync, few enough that it is short.
const BATCH: usize = 256;
/// The first pause of a waiter; it doubles up to the configured interval.
const SHORTEST_POLL: Duration = Duration::from_millis(2);
/// The first pause while another process writes; it doubles.
const SHORTEST_PAUSE: Duration = Duration::from_micros(100);
/// As long as the other may just be one of many that write at once, in which case only who looks often gets a turn.
const IMPATIENT: Duration = Duration::from_millis(250);

/// What the worker is told.
pub(crate) enum Message {
    /// Do this.
    Task(Box<dyn Task>),
    /// Somebody waits for the file to change.
    Waiting,
}

/// What the store learns of the file when it is open.
pub(crate) struct Opened {
    pub(crate) filesystem: Filesystem,
}

/// The one thread that owns the connection. It does whatever waits for it in one transaction, since most of a
/// transaction's cost is the one sync at its end; looks for changes while somebody waits for one; and ends when the
/// store is dropped.
pub(crate) struct Worker<'c> {
    file: LockFile,
    tables: Tables<'c>,
    inbox: Receiver<Message>,
    shared: Arc<Shared>,
    busy_timeout: Duration,
    longest_poll: Duration,
    /// What waits for its turn, in the order in which it came.
    pending: Vec<Box<dyn Task>>,
    /// Since when another process has been in the way, and how long to pause.
    busy: Option<(Instant, Duration)>,
    poll: Duration,
    next_poll: Instant,
}

/// Why a transaction was not committed.
enum Stop {
    /// Another process is writing.
    Busy,
    /// Nothing can be done at all.
    Refused(Error),
    /// One of the steps, or the commit, failed.
    Failed(Error),
}

/// Opens the file, says how that went, and works until the store is dropped.
pub(crate) fn run(
    config: SqliteConfig,
    shared: Arc<Shared>,
    inbox: Receiver<Message>,
    opened: impl FnOnce(Result<Opened>),
) {
    let open = || {
        let machine = Machine::this()?;
        let file = LockFile::find_or_make(&config.path)?;
        let connection = file.connect()?;
        schema::prepare(file.path(), &connection, &machine, config.adopt, config.busy_timeout)?;
        file.check_in_place()?;
        Ok((machine, file, connection))
    };
    let (machine, file, connection) = match open() {
        Ok(open) => open,
        Err(error) => return opened(Err(error)),
    };
    let tables = match Tables::new(&connection, &machine, shared.clone()) {
        Ok(tables) => tables,
        Err(error) => return opened(Err(error::of_opening(file.path(), error))),
    };
    let mut worker = Worker {
        file,
        tables,
        inbox,
        shared,
        busy_timeout: config.busy_timeout,
        longest_poll: config.poll_interval,
        pending: Vec::new(),
        busy: None,
        poll: SHORTEST_POLL,
        next_poll: Instant::now(),
    };
    match worker.first_look() {
        Ok(()) => opened(Ok(Opened { filesystem: worker.file.filesystem })),
        Err(error) => return opened(Err(error)),
    }
    worker.work();
}

impl Worker<'_> {
    /// Reads the realm, and what the waiters are to compare with.
    fn first_look(&mut self) -> Result<()> {
        let until = Instant::now() + self.busy_timeout;
        loop {
            let looked = self.tables.begin_look().and_then(|()| {
                self.tables.look_for_changes()?;
                Ok(self.tables.commit()?)
            });
            match looked {
                Ok(()) => return Ok(()),
                Err(Failure::Refused(error)) => return Err(error),
                Err(Failure::Sqlite(error)) if !error::is_busy(&error) || Instant::now() >= until => {
                    return Err(error::of_opening(self.file.path(), error));
                }
                Err(Failure::Sqlite(_)) => std::thread::sleep(SHORTEST_POLL),
            }
        }
    }

    fn work(&mut self) {
        while self.receive() {
            self.pending.retain(|task| task.is_wanted());
            self.look();
            self.write();
            self.look_for_waiters();
        }
    }

    /// Waits until there is something to do; false when the store is dropped.
    fn receive(&mut self) -> bool {
        let first = match self.pause() {
            None => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(pause) => self.inbox.recv_timeout(pause),
        };
        match first {
            Ok(message) => self.take(message),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        while self.pending.len() < BATCH {
            let Ok(message) = self.inbox.try_recv() else { break };
            self.take(message);
        }
        true
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Task(task) => self.pending.push(task),
            Message::Waiting => self.poll_soon(),
        }
    }

    /// How long to wait for a message; `None` while there is nothing else to do, and then nothing runs.
    fn pause(&self) -> Option<Duration> {
        let poll = self.shared.changes.is_awaited().then(|| self.next_poll.saturating_duration_since(Instant::now()));
        let busy = self.busy.map(|(_, pause)| pause);
        poll.into_iter().chain(busy).min()
    }

    /// Answers what needs no writing. It waits for no writer, except while the log is being recovered.
    fn look(&mut self) {
        let is_busy = self.busy.is_some();
        if !self.pending.iter().any(|task| is_busy || task.looks()) {
            return;
        }
        let mut look = || {
            self.file.check_in_place()?;
            self.tables.begin_look()?;
            let mut at = 0;
            while at < self.pending.len() {
                let task = &mut self.pending[at];
                if (is_busy || task.looks()) && task.look(&mut self.tables)? {
                    self.pending.remove(at);
                } else {
                    at += 1;
                }
            }
            Ok(self.tables.commit()?)
        };
        match look() {
            Ok(()) => {}
            Err(Failure::Sqlite(error)) if error::is_busy(&error) => self.tables.roll_back(),
            Err(failure) => {
                self.tables.roll_back();
                let error = self.error_of(failure);
                self.fail(|task| is_busy || task.looks(), &error);
            }
        }
    }

    /// Does what is left in one transaction.
    fn write(&mut self) {
        if self.pending.is_empty() {
            self.busy = None;
            return;
        }
        let mut tasks = std::mem::take(&mut self.pending);
        match self.transact(&mut tasks) {
            Ok(()) => {}
            Err(Stop::Busy) => return self.postpone(tasks),
            Err(Stop::Refused(error)) => tasks.iter_mut().for_each(|task| task.fail(error.clone())),
            Err(Stop::Failed(error)) if tasks.len() == 1 || error.may_have_taken_effect() => {
                tasks.iter_mut().for_each(|task| task.fail(error.clone()));
            }
            // Which of them failed it, a name that needs a new page on a full disk perhaps, is found out one by one.
            Err(Stop::Failed(_)) => return self.write_one_by_one(tasks),
        }
        self.busy = None;
    }

    fn write_one_by_one(&mut self, tasks: Vec<Box<dyn Task>>) {
        self.busy = None;
        let mut postponed = Vec::new();
        for mut task in tasks {
            match self.transact(std::slice::from_mut(&mut task)) {
                Ok(()) => {}
                Err(Stop::Busy) => postponed.push(task),
                Err(Stop::Refused(error) | Stop::Failed(error)) => task.fail(error),
            }
        }
        if !postponed.is_empty() {
            self.postpone(postponed);
        }
    }

    /// One transaction for all of `tasks`, which are answered when it is on the disk; or none of them, and no answers.
    fn transact(&mut self, tasks: &mut [Box<dyn Task>]) -> Result<(), Stop> {
        self.file.check_in_place().map_err(Stop::Refused)?;
        let written = self.tables.written();
        match self.tables.begin_write() {
            Ok(()) => {}
            Err(Failure::Sqlite(error)) if error::is_busy(&error) => return Err(Stop::Busy),
            Err(failure) => {
                self.tables.roll_back();
                return Err(Stop::Refused(self.error_of(failure)));
            }
        }
        for task in tasks.iter_mut() {
            if let Err(error) = task.apply(&mut self.tables) {
                self.tables.roll_back();
                return Err(Stop::Failed(error::of_sqlite(self.file.path(), error)));
            }
        }
        if let Err(error) = self.tables.commit() {
            self.tables.roll_back();
            return Err(Stop::Failed(error::of_commit(self.file.path(), error)));
        }
        if self.tables.written() != written {
            self.shared.committed();
        }
        tasks.iter_mut().for_each(|task| task.finish());
        Ok(())
    }

    /// Another process writes: tries again after a pause, and gives up what has waited for too long.
    fn postpone(&mut self, tasks: Vec<Box<dyn Task>>) {
        self.pending = tasks;
        let (since, pause) = match self.busy {
            None => (Instant::now(), SHORTEST_PAUSE),
            Some((since, pause)) => {
                let longest = if since.elapsed() < IMPATIENT { 1 } else { 5 };
                (since, (pause * 2).min(Duration::from_millis(longest)))
            }
        };
        self.busy = Some((since, pause));
        let text = format!(
            "{}: another process kept it busy for {:?}; nothing was changed",
            self.file.path().display(),
            self.busy_timeout
        );
        let limit = self.busy_timeout;
        self.fail(|task| task.age() >= limit, &Error::refused(ErrorKind::Unavailable, text));
        if self.pending.is_empty() {
            self.busy = None;
        }
    }

    fn fail(&mut self, which: impl Fn(&dyn Task) -> bool, error: &Error) {
        self.pending.retain_mut(|task| {
            let fails = which(&**task);
            if fails {
                task.fail(error.clone());
            }
            !fails
        });
    }

    fn error_of(&self, failure: Failure) -> Error {
        match failure {
            Failure::Refused(error) => error,
            Failure::Sqlite(error) => error::of_sqlite(self.file.path(), error),
        }
    }

    /// While somebody waits: looks whether another process has changed the file, often at first.
    fn look_for_waiters(&mut self) {
        let now = Instant::now();
        if now < self.next_poll || !self.shared.changes.is_awaited() {
            return;
        }
        match self.tables.look_for_changes() {
            Ok(true) => self.poll_soon(),
            // Waiters look again by themselves when the lease in the way can have ended.
            Ok(false) | Err(_) => {
                self.poll = (self.poll * 2).min(self.longest_poll);
                self.next_poll = now + self.poll;
            }
        }
    }

    fn poll_soon(&mut self) {
        self.poll = SHORTEST_POLL.min(self.longest_poll);
        self.next_poll = Instant::now() + self.poll;
    }
}
