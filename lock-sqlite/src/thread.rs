//! The thread of a store: it opens and closes the file, and runs a worker while the file is open.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use lock_core::{Error, Filesystem, Result};
use tokio::sync::oneshot;

use crate::config::SqliteConfig;
use crate::error::OpenError;
use crate::inode::Inode;
use crate::message::Message;
use crate::open_file::OpenFile;
use crate::shared::Shared;
use crate::worker::{Context, Exit, Worker};

/// The facts about the file that the store learns when it is open.
pub(crate) struct Opened {
    pub(crate) filesystem: Filesystem,
}

/// Opens the file, reports the result to `opened`, and serves messages until the store is dropped.
///
/// The file is closed on request, and opened again if a message comes after all.
pub(crate) fn run(
    config: SqliteConfig,
    shared: Arc<Shared>,
    inbox: Receiver<Message>,
    opened: impl FnOnce(Result<Opened>),
) {
    let open = match OpenFile::open(&config, None) {
        Ok(open) => open,
        Err(failure) => return opened(Err(failure.into_error(&config.path))),
    };
    // Reopening must find this file, and never create another.
    let context = Context { config: SqliteConfig { existing: true, ..config }, shared, inbox };
    let exit = match Worker::start(&context, &open) {
        Err(error) => return opened(Err(error)),
        Ok(worker) => {
            opened(Ok(Opened { filesystem: open.filesystem() }));
            worker.run(None)
        }
    };
    serve(&context, open, exit);
}

/// Goes on after a worker has stopped.
fn serve(context: &Context, mut open: OpenFile, mut exit: Exit) {
    loop {
        let inode = open.inode();
        match exit {
            Exit::Dropped => return,
            Exit::Gone(error) => {
                open.close_abandoned();
                return reject_all(context, &error);
            }
            Exit::Closing(closed) => {
                drop(open);
                let _ = closed.send(());
            }
        }
        let Some(reopened) = reopen(context, inode) else { return };
        let first;
        (open, first) = reopened;
        exit = match Worker::start(context, &open) {
            Ok(worker) => worker.run(Some(first)),
            Err(error) => {
                reject(context, first, &error);
                Exit::Closing(oneshot::channel().0)
            }
        };
    }
}

/// Waits for the next message, and opens the file for it; `None` if the store is dropped meanwhile.
fn reopen(context: &Context, inode: Inode) -> Option<(OpenFile, Message)> {
    loop {
        let message = context.inbox.recv().ok()?;
        if let Message::Close(closed) = message {
            let _ = closed.send(());
            continue;
        }
        match OpenFile::open(&context.config, Some(inode)) {
            Ok(open) => return Some((open, message)),
            Err(OpenError::Gone(error)) => {
                context.shared.set_gone();
                reject(context, message, &error);
                reject_all(context, &error);
                return None;
            }
            Err(failure) => reject(context, message, &failure.into_error(&context.config.path)),
        }
    }
}

/// Answers every message with this error, until the store is dropped.
fn reject_all(context: &Context, error: &Error) {
    while let Ok(message) = context.inbox.recv() {
        reject(context, message, error);
    }
}

fn reject(context: &Context, message: Message, error: &Error) {
    match message {
        Message::Op(mut op) => op.fail(error.clone()),
        // A waiter that is notified requests again, and gets the error.
        Message::Waiting => context.shared.changes.notify(),
        Message::Close(closed) => {
            let _ = closed.send(());
        }
    }
}
