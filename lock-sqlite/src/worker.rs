//! [`Worker`]: runs operations on the open file, in batches.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use lock_core::kit::{OpQueue, Taken};
use lock_core::{Error, ErrorKind, Result};
use tokio::sync::oneshot;

use crate::config::SqliteConfig;
use crate::error::{self, OpError, OpenError};
use crate::message::Message;
use crate::open_file::OpenFile;
use crate::pending_op::ErasedOp;
use crate::shared::Shared;
use crate::tables::Tables;

/// Maximum number of operations in one transaction: enough to share the cost of a sync, few enough
/// that it is short.
const MAX_BATCH: usize = 256;
/// The first poll interval of a waiter; it doubles up to the configured interval.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(2);
/// The first backoff while another process writes; it doubles.
const MIN_BUSY_PAUSE: Duration = Duration::from_micros(100);
/// Time during which retries are frequent: while many processes write at once, only a frequent
/// retry gets a turn.
const EAGER_RETRY_TIME: Duration = Duration::from_millis(250);

/// The parts of a store's thread that outlive an open file.
pub(crate) struct Context {
    pub(crate) config: SqliteConfig,
    pub(crate) shared: Arc<Shared>,
    pub(crate) inbox: Receiver<Message>,
}

/// Runs operations while the file is open. All pending operations share one transaction, since most
/// of a transaction's cost is the one sync at its end. While there are waiters, it polls for
/// changes.
pub(crate) struct Worker<'c> {
    context: &'c Context,
    open: &'c OpenFile,
    tables: Tables<'c>,
    /// The operations that wait for the next batch.
    queue: OpQueue<Box<dyn ErasedOp>>,
    /// The batch: operations that are run now, or were postponed while another process writes.
    pending: Vec<Box<dyn ErasedOp>>,
    /// Since when another process has blocked writing, and the current backoff.
    busy: Option<(Instant, Duration)>,
    poll: Duration,
    next_poll: Instant,
    /// The reason to stop, as soon as no operation is pending.
    exit: Option<Exit>,
}

/// The reason why a worker stopped.
pub(crate) enum Exit {
    /// The store was dropped.
    Dropped,
    /// The file is to be closed.
    Closing(oneshot::Sender<()>),
    /// The file is no longer where other processes look for it.
    Gone(Error),
}

/// The reason why a transaction was not committed.
enum TransactionError {
    /// Another process is writing.
    Busy,
    /// No transaction is possible.
    Refused(Error),
    /// One of the operations, or the commit, failed.
    Failed(Error),
}

impl<'c> Worker<'c> {
    pub(crate) fn start(context: &'c Context, open: &'c OpenFile) -> Result<Worker<'c>> {
        let tables = Tables::new(&open.connection, &open.machine, context.shared.clone())
            .map_err(|failed| error::classify_open(open.path(), failed))?;
        let mut worker = Worker {
            context,
            open,
            tables,
            queue: OpQueue::new(),
            pending: Vec::new(),
            busy: None,
            poll: MIN_POLL_INTERVAL,
            next_poll: Instant::now(),
            exit: None,
        };
        worker.read_initial_state()?;
        Ok(worker)
    }

    /// Reads the realm, and the version that waiters compare with.
    fn read_initial_state(&mut self) -> Result<()> {
        let deadline = Instant::now() + self.context.config.busy_timeout;
        loop {
            let result = self.tables.begin_read().and_then(|()| {
                self.tables.poll_changes()?;
                Ok(self.tables.commit()?)
            });
            match result {
                Ok(()) => return Ok(()),
                Err(OpError::Sqlite(error)) if error::is_busy(&error) && Instant::now() < deadline => {
                    std::thread::sleep(MIN_POLL_INTERVAL);
                }
                Err(OpError::Sqlite(error)) => return Err(error::classify_open(self.open.path(), error)),
                Err(failure) => return Err(failure.into_error(self.open.path())),
            }
        }
    }

    /// Serves messages, `first` before all others, until there is a reason to stop.
    pub(crate) fn run(mut self, first: Option<Message>) -> Exit {
        let mut first = first;
        loop {
            match first.take() {
                Some(message) => self.handle(message),
                None if !self.receive() => return Exit::Dropped,
                None => {}
            }
            self.fill_batch();
            self.read();
            self.write();
            self.poll_for_waiters();
            if self.pending.is_empty()
                && self.queue.is_empty()
                && let Some(exit) = self.exit.take()
            {
                return exit;
            }
        }
    }

    /// Receives all messages that are there. If there is nothing to run, it first waits for one, or
    /// for the next poll or retry; returns false when the store is dropped.
    fn receive(&mut self) -> bool {
        if self.queue.is_empty() || self.busy.is_some() {
            let first = match self.pause() {
                None => self.context.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(pause) => self.context.inbox.recv_timeout(pause),
            };
            match first {
                Ok(message) => self.handle(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        while self.exit.is_none() {
            let Ok(message) = self.context.inbox.try_recv() else { break };
            self.handle(message);
        }
        true
    }

    /// Fills the batch from the queue. If it is full of postponed operations, one more is added, so
    /// that those that only read, and renewals, get through while another process writes.
    fn fill_batch(&mut self) {
        self.pending.retain(|op| op.is_wanted());
        let room = MAX_BATCH.saturating_sub(self.pending.len()).max(1);
        let Taken { batch, gone: _ } = self.queue.take_batch(room, |op| op.is_wanted());
        self.pending.extend(batch);
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Op(op) => {
                let priority = op.priority();
                self.queue.push(op, priority);
            }
            Message::Waiting => self.poll_soon(),
            // Waiters need the open file.
            Message::Close(closed) if self.exit.is_some() || self.context.shared.changes.has_subscribers() => {
                let _ = closed.send(());
            }
            Message::Close(closed) => self.exit = Some(Exit::Closing(closed)),
        }
    }

    /// Checks that the files are where other processes look for them. If not, this worker stops.
    fn check_in_place(&mut self) -> Result<()> {
        self.open.check_in_place().map_err(|failure| {
            let is_gone = matches!(failure, OpenError::Gone(_));
            let error = failure.into_error(self.open.path());
            if is_gone {
                self.context.shared.set_gone();
                self.exit = Some(Exit::Gone(error.clone()));
            }
            error
        })
    }

    /// Time limit for the wait for a message; `None`: there is no poll or retry to do, and nothing
    /// runs.
    fn pause(&self) -> Option<Duration> {
        let poll = self
            .context
            .shared
            .changes
            .has_subscribers()
            .then(|| self.next_poll.saturating_duration_since(Instant::now()));
        let busy = self.busy.map(|(_, pause)| pause);
        poll.into_iter().chain(busy).min()
    }

    /// Runs the operations that may need no writing. It waits for no writer, except while the log
    /// is being recovered.
    fn read(&mut self) {
        let is_busy = self.busy.is_some();
        if !self.pending.iter().any(|op| is_busy || op.may_read_only()) {
            return;
        }
        if let Err(error) = self.check_in_place() {
            return self.fail(|op| is_busy || op.may_read_only(), &error);
        }
        let mut read = || {
            self.tables.begin_read()?;
            let mut at = 0;
            while at < self.pending.len() {
                let op = &mut self.pending[at];
                if (is_busy || op.may_read_only()) && op.read_only(&mut self.tables)? {
                    self.pending.remove(at);
                } else {
                    at += 1;
                }
            }
            Ok(self.tables.commit()?)
        };
        match read() {
            Ok(()) => {}
            Err(OpError::Sqlite(error)) if error::is_busy(&error) => self.tables.roll_back(),
            Err(failure) => {
                self.tables.roll_back();
                let error = failure.into_error(self.open.path());
                self.fail(|op| is_busy || op.may_read_only(), &error);
            }
        }
    }

    /// Runs the other operations in one transaction.
    fn write(&mut self) {
        if self.pending.is_empty() {
            self.busy = None;
            return;
        }
        let mut ops = std::mem::take(&mut self.pending);
        match self.transact(&mut ops) {
            Ok(()) => {}
            Err(TransactionError::Busy) => return self.postpone(ops),
            Err(TransactionError::Refused(error)) => ops.iter_mut().for_each(|op| op.fail(error.clone())),
            Err(TransactionError::Failed(error)) if ops.len() == 1 || error.may_have_taken_effect() => {
                ops.iter_mut().for_each(|op| op.fail(error.clone()));
            }
            // One of them caused it, such as a name that needs a new page on a full disk: each is
            // tried by itself.
            Err(TransactionError::Failed(_)) => return self.write_one_by_one(ops),
        }
        self.busy = None;
    }

    fn write_one_by_one(&mut self, ops: Vec<Box<dyn ErasedOp>>) {
        self.busy = None;
        let mut postponed = Vec::new();
        for mut op in ops {
            match self.transact(std::slice::from_mut(&mut op)) {
                Ok(()) => {}
                Err(TransactionError::Busy) => postponed.push(op),
                Err(TransactionError::Refused(error) | TransactionError::Failed(error)) => op.fail(error),
            }
        }
        if !postponed.is_empty() {
            self.postpone(postponed);
        }
    }

    /// Runs all of `ops` in one transaction, and answers them when it is on the disk. On an error
    /// none has an effect, and none is answered.
    fn transact(&mut self, ops: &mut [Box<dyn ErasedOp>]) -> Result<(), TransactionError> {
        self.check_in_place().map_err(TransactionError::Refused)?;
        let rows_written = self.tables.rows_written();
        match self.tables.begin_write() {
            Ok(()) => {}
            Err(OpError::Sqlite(error)) if error::is_busy(&error) => return Err(TransactionError::Busy),
            Err(failure) => {
                self.tables.roll_back();
                return Err(TransactionError::Refused(failure.into_error(self.open.path())));
            }
        }
        for op in ops.iter_mut() {
            if let Err(error) = op.apply(&mut self.tables) {
                self.tables.roll_back();
                return Err(TransactionError::Failed(error::classify(self.open.path(), error)));
            }
        }
        if let Err(error) = self.tables.commit() {
            self.tables.roll_back();
            return Err(TransactionError::Failed(error::classify_commit(self.open.path(), error)));
        }
        if self.tables.rows_written() != rows_written {
            self.context.shared.count_commit();
        }
        ops.iter_mut().for_each(|op| op.finish());
        Ok(())
    }

    /// Backs off while another process writes; fails the operations that have waited for too long.
    fn postpone(&mut self, ops: Vec<Box<dyn ErasedOp>>) {
        self.pending = ops;
        let (since, pause) = match self.busy {
            None => (Instant::now(), MIN_BUSY_PAUSE),
            Some((since, pause)) => {
                let max_millis = if since.elapsed() < EAGER_RETRY_TIME { 1 } else { 5 };
                (since, (pause * 2).min(Duration::from_millis(max_millis)))
            }
        };
        self.busy = Some((since, pause));
        let text = format!(
            "{}: another process kept it busy for {:?}; nothing was changed",
            self.open.path().display(),
            self.context.config.busy_timeout
        );
        let limit = self.context.config.busy_timeout;
        self.fail(|op| op.age() >= limit, &Error::refused(ErrorKind::Unavailable, text));
        if self.pending.is_empty() {
            self.busy = None;
        }
    }

    fn fail(&mut self, which: impl Fn(&dyn ErasedOp) -> bool, error: &Error) {
        self.pending.retain_mut(|op| {
            let fails = which(&**op);
            if fails {
                op.fail(error.clone());
            }
            !fails
        });
    }

    /// While there are waiters: polls for changes by other processes, often at first.
    fn poll_for_waiters(&mut self) {
        let now = Instant::now();
        if now < self.next_poll || !self.context.shared.changes.has_subscribers() {
            return;
        }
        // If they are not in place, the waiters have been notified.
        if self.check_in_place().is_err() && self.exit.is_some() {
            return;
        }
        match self.tables.poll_changes() {
            Ok(true) => self.poll_soon(),
            // Waiters retry by themselves when the lease can have ended.
            Ok(false) | Err(_) => {
                self.poll = (self.poll * 2).min(self.context.config.poll_interval);
                self.next_poll = now + self.poll;
            }
        }
    }

    fn poll_soon(&mut self) {
        self.poll = MIN_POLL_INTERVAL.min(self.context.config.poll_interval);
        self.next_poll = Instant::now() + self.poll;
    }
}
