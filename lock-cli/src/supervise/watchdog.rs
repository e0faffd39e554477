//! [`watch`]: the watchdog, which starts the command and stops it in time.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::signal::unix::Signal as ChildSignals;

use super::deadline_file::OuterDeadline;
use super::descendants;
use super::frame::{FRAME_BYTES, FrameSocket, Order, Report};
use super::run_limit::RunLimit;
use super::signals::Signals;
use super::watchdog_order::WatchdogOrder;
use super::watched_command::{POLL_INTERVAL, WatchedCommand};
use crate::failure::Failure;

/// The main function of the watchdog: starts the command on the order of the supervisor, and stops
/// it before its lease ends, or when the supervisor has ended.
pub(crate) async fn watch(order: WatchdogOrder) -> Result<ExitCode, Failure> {
    let failed = |error: io::Error| Failure::system(format!("the watchdog cannot run: {error}"));
    // `pkill leasehold` must hit the supervisor and not the watchdog.
    let _ = rustix::thread::set_name(c"lock-watchdog");
    // Signals that would end it are received and ignored: it ends after the command.
    let signals = Signals::new()?;
    let mut children = Signals::child_signals().map_err(failed)?;
    descendants::adopt();
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().map_err(failed)?);
    let Some(StartOrder { limit, streams }) = receive_start(&socket).map_err(failed)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let link = FrameSocket::new(socket).map_err(failed)?;

    let watch = match WatchedCommand::start(&order, limit, streams, signals.inherited()) {
        Ok(watch) => watch,
        Err(error) => {
            link.send(Report::NotStarted(error.raw_os_error().unwrap_or_default()).to_frame());
            return Ok(ExitCode::SUCCESS);
        }
    };
    link.send(Report::Started(watch.group.as_raw_nonzero().get()).to_frame());
    serve(watch, link, &mut children).await
}

/// Executes the orders of the supervisor until the command has ended and the supervisor lets the
/// watchdog exit.
async fn serve(
    mut watch: WatchedCommand,
    mut link: FrameSocket,
    children: &mut ChildSignals,
) -> Result<ExitCode, Failure> {
    loop {
        // Orders come first: after a pause of this process its deadlines are outdated.
        tokio::select! {
            biased;
            frame = link.next() => match frame.map(Order::from_frame) {
                Some(Ok(Order::Extend(deadline))) => watch.extend(deadline),
                Some(Ok(Order::Stop)) => watch.stop_now(&link),
                Some(Ok(Order::Start(_))) | Some(Err(_)) => {}
                Some(Ok(Order::Exit)) => return Ok(ExitCode::SUCCESS),
                None if watch.has_reported => return Ok(ExitCode::SUCCESS),
                None => {
                    watch.stop_now(&link);
                    return watch.run_alone(&link, children).await;
                }
            },
            _ = children.recv() => watch.poll(&link),
            () = watch.due() => watch.on_due(&link),
            () = tokio::time::sleep(POLL_INTERVAL) => watch.poll(&link),
        }
    }
}

/// The first order to a watchdog, with what comes along.
struct StartOrder {
    limit: RunLimit,
    streams: [OwnedFd; 3],
}

/// Waits for the first order; `None` if the supervisor has ended before.
fn receive_start(socket: &UnixStream) -> io::Result<Option<StartOrder>> {
    let mut frame = [0; FRAME_BYTES];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut frame)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?.bytes;
    if received == 0 {
        return Ok(None);
    }
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let outer = (descriptors.len() == 4).then(|| descriptors.pop()).flatten();
    let outer = outer.and_then(|file| OuterDeadline::from_file(file.into()));
    let streams = descriptors.try_into().map_err(|_| invalid())?;
    match (received, Order::from_frame(frame)?) {
        (FRAME_BYTES, Order::Start(deadline)) => Ok(Some(StartOrder { limit: RunLimit { deadline, outer }, streams })),
        _ => Err(invalid()),
    }
}
