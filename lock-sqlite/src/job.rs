//! [`Job`]: a step with the place for its answer.

use std::time::{Duration, Instant};

use lock_core::{Error, Result};
use tokio::sync::oneshot;

use crate::error::Failure;
use crate::steps::Step;
use crate::tables::Tables;

/// A step that somebody waits for, with the type of its answer out of sight.
pub(crate) trait Task: Send {
    /// Whether somebody still waits for the answer.
    fn is_wanted(&self) -> bool;

    /// For how long it has waited for its turn.
    fn age(&self) -> Duration;

    /// Whether a look is likely to answer it.
    fn looks(&self) -> bool;

    /// Answers it if a look is enough; says whether it did.
    fn look(&mut self, tables: &mut Tables<'_>) -> rusqlite::Result<bool>;

    /// Does it, and keeps the answer until [`finish`](Task::finish).
    fn apply(&mut self, tables: &mut Tables<'_>) -> rusqlite::Result<()>;

    /// Gives the answer: what was applied is on the disk.
    fn finish(&mut self);

    /// Gives an error in place of the answer.
    fn fail(&mut self, error: Error);
}

/// A step with the place for its answer.
pub(crate) struct Job<S: Step> {
    step: S,
    since: Instant,
    answer: Option<Result<S::Answer>>,
    reply: Option<oneshot::Sender<Result<S::Answer>>>,
}

impl<S: Step> Job<S> {
    pub(crate) fn new(step: S) -> (Job<S>, oneshot::Receiver<Result<S::Answer>>) {
        let (reply, answer) = oneshot::channel();
        (Job { step, since: Instant::now(), answer: None, reply: Some(reply) }, answer)
    }

    fn reply(&mut self, answer: Result<S::Answer>) {
        if let Some(reply) = self.reply.take() {
            // Whoever went away meanwhile asks again by holder, or withdraws.
            let _ = reply.send(answer);
        }
    }
}

impl<S: Step> Task for Job<S> {
    fn is_wanted(&self) -> bool {
        self.reply.as_ref().is_some_and(|reply| !reply.is_closed())
    }

    fn age(&self) -> Duration {
        self.since.elapsed()
    }

    fn looks(&self) -> bool {
        self.step.looks()
    }

    fn look(&mut self, tables: &mut Tables<'_>) -> rusqlite::Result<bool> {
        match self.step.look(tables) {
            Ok(None) => return Ok(false),
            Ok(Some(answer)) => self.reply(Ok(answer)),
            Err(Failure::Refused(error)) => self.reply(Err(error)),
            Err(Failure::Sqlite(error)) => return Err(error),
        }
        Ok(true)
    }

    fn apply(&mut self, tables: &mut Tables<'_>) -> rusqlite::Result<()> {
        self.answer = Some(match self.step.apply(tables) {
            Ok(answer) => Ok(answer),
            Err(Failure::Refused(error)) => Err(error),
            Err(Failure::Sqlite(error)) => return Err(error),
        });
        Ok(())
    }

    fn finish(&mut self) {
        if let Some(answer) = self.answer.take() {
            self.reply(answer);
        }
    }

    fn fail(&mut self, error: Error) {
        self.answer = None;
        self.reply(Err(error));
    }
}
