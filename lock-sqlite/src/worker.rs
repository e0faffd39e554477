//! The one thread of a store, which owns the connection.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use lock_core::{Error, ErrorKind, Filesystem, Result};
use tokio::sync::oneshot;

use crate::SqliteConfig;
use crate::error::{self, Failure, Unusable};
use crate::file::Inode;
use crate::job::Task;
use crate::open::Open;
use crate::shared::Shared;
use crate::tables::Tables;

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
    /// Nothing more is expected: close the file, and say so here.
    Close(oneshot::Sender<()>),
}

/// What the store learns of the file when it is open.
pub(crate) struct Opened {
    pub(crate) filesystem: Filesystem,
}

/// The thread of a store: it owns the connection, closes the file when it is told to, and opens it again when something
/// comes all the same. It ends when the store is dropped.
struct Desk {
    config: SqliteConfig,
    shared: Arc<Shared>,
    inbox: Receiver<Message>,
}

/// Works while the file is open. It does whatever waits for it in one transaction, since most of a transaction's cost is
/// the one sync at its end, and looks for changes while somebody waits for one.
struct Worker<'c> {
    desk: &'c Desk,
    open: &'c Open,
    tables: Tables<'c>,
    /// What waits for its turn, in the order in which it came.
    pending: Vec<Box<dyn Task>>,
    /// Since when another process has been in the way, and how long to pause.
    busy: Option<(Instant, Duration)>,
    poll: Duration,
    next_poll: Instant,
    /// Why it stops, as soon as nothing waits any more.
    end: Option<End>,
}

/// Why a worker stops.
enum End {
    /// The store was dropped.
    Dropped,
    /// Nothing more is expected.
    Closing(oneshot::Sender<()>),
    /// The file is no longer where others look for it.
    Gone(Error),
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
    let open = match Open::file(&config, None) {
        Ok(open) => open,
        Err(failure) => return opened(Err(failure.into_error(&config.path))),
    };
    // What is opened again later is this file, and no new one.
    let desk = Desk { config: SqliteConfig { existing: true, ..config }, shared, inbox };
    let end = match Worker::begin(&desk, &open) {
        Err(error) => return opened(Err(error)),
        Ok(worker) => {
            opened(Ok(Opened { filesystem: open.filesystem() }));
            worker.work(None)
        }
    };
    desk.go_on(open, end);
}

impl Desk {
    /// After a worker has stopped.
    fn go_on(&self, mut open: Open, mut end: End) {
        loop {
            let inode = open.inode();
            match end {
                End::Dropped => return,
                End::Gone(error) => {
                    open.leave();
                    return self.refuse_all(&error);
                }
                End::Closing(closed) => {
                    drop(open);
                    let _ = closed.send(());
                }
            }
            let Some(again) = self.open_again(inode) else { return };
            let first;
            (open, first) = again;
            end = match Worker::begin(self, &open) {
                Ok(worker) => worker.work(Some(first)),
                Err(error) => {
                    self.refuse(first, &error);
                    End::Closing(oneshot::channel().0)
                }
            };
        }
    }

    /// Waits for the next message, and opens the file for it; `None` if the store is dropped meanwhile.
    fn open_again(&self, inode: Inode) -> Option<(Open, Message)> {
        loop {
            let message = self.inbox.recv().ok()?;
            if let Message::Close(closed) = message {
                let _ = closed.send(());
                continue;
            }
            match Open::file(&self.config, Some(inode)) {
                Ok(open) => return Some((open, message)),
                Err(Unusable::Gone(error)) => {
                    self.shared.set_gone();
                    self.refuse(message, &error);
                    self.refuse_all(&error);
                    return None;
                }
                Err(failure) => self.refuse(message, &failure.into_error(&self.config.path)),
            }
        }
    }

    /// Answers everything with this error, until the store is dropped.
    fn refuse_all(&self, error: &Error) {
        while let Ok(message) = self.inbox.recv() {
            self.refuse(message, error);
        }
    }

    fn refuse(&self, message: Message, error: &Error) {
        match message {
            Message::Task(mut task) => task.fail(error.clone()),
            // Who waits asks again, and is told.
            Message::Waiting => self.shared.changes.tell(),
            Message::Close(closed) => {
                let _ = closed.send(());
            }
        }
    }
}

impl<'c> Worker<'c> {
    fn begin(desk: &'c Desk, open: &'c Open) -> Result<Worker<'c>> {
        let tables = Tables::new(&open.connection, &open.machine, desk.shared.clone())
            .map_err(|failed| error::of_opening(open.path(), failed))?;
        let mut worker = Worker {
            desk,
            open,
            tables,
            pending: Vec::new(),
            busy: None,
            poll: SHORTEST_POLL,
            next_poll: Instant::now(),
            end: None,
        };
        worker.first_look()?;
        Ok(worker)
    }

    /// Reads the realm, and what the waiters are to compare with.
    fn first_look(&mut self) -> Result<()> {
        let until = Instant::now() + self.desk.config.busy_timeout;
        loop {
            let looked = self.tables.begin_look().and_then(|()| {
                self.tables.look_for_changes()?;
                Ok(self.tables.commit()?)
            });
            match looked {
                Ok(()) => return Ok(()),
                Err(Failure::Sqlite(error)) if error::is_busy(&error) && Instant::now() < until => {
                    std::thread::sleep(SHORTEST_POLL);
                }
                Err(Failure::Sqlite(error)) => return Err(error::of_opening(self.open.path(), error)),
                Err(failure) => return Err(failure.into_error(self.open.path())),
            }
        }
    }

    /// Works until it stops; `first` has come already.
    fn work(mut self, first: Option<Message>) -> End {
        let mut first = first;
        loop {
            match first.take() {
                Some(message) => self.take(message),
                None if !self.receive() => return End::Dropped,
                None => {}
            }
            self.pending.retain(|task| task.is_wanted());
            self.look();
            self.write();
            self.look_for_waiters();
            if self.pending.is_empty()
                && let Some(end) = self.end.take()
            {
                return end;
            }
        }
    }

    /// Waits until there is something to do; false when the store is dropped.
    fn receive(&mut self) -> bool {
        let first = match self.pause() {
            None => self.desk.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(pause) => self.desk.inbox.recv_timeout(pause),
        };
        match first {
            Ok(message) => self.take(message),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        while self.pending.len() < BATCH && self.end.is_none() {
            let Ok(message) = self.desk.inbox.try_recv() else { break };
            self.take(message);
        }
        true
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Task(task) => self.pending.push(task),
            Message::Waiting => self.poll_soon(),
            // Who waits has to be told of changes.
            Message::Close(closed) if self.end.is_some() || self.desk.shared.changes.is_awaited() => {
                let _ = closed.send(());
            }
            Message::Close(closed) => self.end = Some(End::Closing(closed)),
        }
    }

    /// Checks that the files are where others look for them. If they are not, this worker stops.
    fn check_in_place(&mut self) -> Result<()> {
        self.open.check_in_place().map_err(|failure| {
            let is_gone = matches!(failure, Unusable::Gone(_));
            let error = failure.into_error(self.open.path());
            if is_gone {
                self.desk.shared.set_gone();
                self.end = Some(End::Gone(error.clone()));
            }
            error
        })
    }

    /// How long to wait for a message; `None` while there is nothing else to do, and then nothing runs.
    fn pause(&self) -> Option<Duration> {
        let poll =
            self.desk.shared.changes.is_awaited().then(|| self.next_poll.saturating_duration_since(Instant::now()));
        let busy = self.busy.map(|(_, pause)| pause);
        poll.into_iter().chain(busy).min()
    }

    /// Answers what needs no writing. It waits for no writer, except while the log is being recovered.
    fn look(&mut self) {
        let is_busy = self.busy.is_some();
        if !self.pending.iter().any(|task| is_busy || task.looks()) {
            return;
        }
        if let Err(error) = self.check_in_place() {
            return self.fail(|task| is_busy || task.looks(), &error);
        }
        let mut look = || {
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
                let error = failure.into_error(self.open.path());
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
        self.check_in_place().map_err(Stop::Refused)?;
        let written = self.tables.written();
        match self.tables.begin_write() {
            Ok(()) => {}
            Err(Failure::Sqlite(error)) if error::is_busy(&error) => return Err(Stop::Busy),
            Err(failure) => {
                self.tables.roll_back();
                return Err(Stop::Refused(failure.into_error(self.open.path())));
            }
        }
        for task in tasks.iter_mut() {
            if let Err(error) = task.apply(&mut self.tables) {
                self.tables.roll_back();
                return Err(Stop::Failed(error::of_sqlite(self.open.path(), error)));
            }
        }
        if let Err(error) = self.tables.commit() {
            self.tables.roll_back();
            return Err(Stop::Failed(error::of_commit(self.open.path(), error)));
        }
        if self.tables.written() != written {
            self.desk.shared.committed();
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
            self.open.path().display(),
            self.desk.config.busy_timeout
        );
        let limit = self.desk.config.busy_timeout;
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

    /// While somebody waits: looks whether another process has changed the file, often at first.
    fn look_for_waiters(&mut self) {
        let now = Instant::now();
        if now < self.next_poll || !self.desk.shared.changes.is_awaited() {
            return;
        }
        // If they are not, whoever waits has been told.
        if self.check_in_place().is_err() && self.end.is_some() {
            return;
        }
        match self.tables.look_for_changes() {
            Ok(true) => self.poll_soon(),
            // Waiters look again by themselves when the lease in the way can have ended.
            Ok(false) | Err(_) => {
                self.poll = (self.poll * 2).min(self.desk.config.poll_interval);
                self.next_poll = now + self.poll;
            }
        }
    }

    fn poll_soon(&mut self) {
        self.poll = SHORTEST_POLL.min(self.desk.config.poll_interval);
        self.next_poll = Instant::now() + self.poll;
    }
}
