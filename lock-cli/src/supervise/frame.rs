//! [`Order`] and [`Report`]: the messages between supervisor and watchdog.

use std::io;

use rustix::net::SendFlags;
use tokio::net::UnixStream;

/// A message from the supervisor to the watchdog. Moments are those of
/// [`boot_time`](super::boot_time).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Start the command; its lease is valid until then. Its standard streams come along, and the
    /// deadline of the `leasehold run` around it if there is one.
    Start(u64),
    /// The lease is valid until then.
    Extend(u64),
    /// The lease is lost: stop the command now.
    Stop,
    /// Exit: nobody will signal the command any more.
    Exit,
}

/// A message from the watchdog to the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// The command runs; its process id is the group's id.
    Started(i32),
    /// The command could not be started, with the system's error number.
    NotStarted(i32),
    /// The command is being stopped for good: its lease ends, or that of the `leasehold run` around
    /// it.
    Stopping { by_outer: bool },
    /// A signal has stopped the command for a while.
    Suspended(i32),
    /// The command ended by itself with this status.
    Exited(i32),
    /// This signal ended the command.
    Killed(i32),
}

/// Size of a frame: a tag and a number.
pub(crate) const FRAME_BYTES: usize = 9;
pub(crate) type Frame = [u8; FRAME_BYTES];

fn encode(tag: u8, number: u64) -> Frame {
    let mut frame = [tag; FRAME_BYTES];
    frame[1..].copy_from_slice(&number.to_le_bytes());
    frame
}

fn decode(frame: Frame) -> (u8, u64) {
    let mut number = [0; 8];
    number.copy_from_slice(&frame[1..]);
    (frame[0], u64::from_le_bytes(number))
}

impl Order {
    pub(crate) fn to_frame(self) -> Frame {
        match self {
            Order::Start(until) => encode(b'b', until),
            Order::Extend(until) => encode(b'e', until),
            Order::Stop => encode(b's', 0),
            Order::Exit => encode(b'g', 0),
        }
    }

    pub(crate) fn from_frame(frame: Frame) -> io::Result<Order> {
        match decode(frame) {
            (b'b', until) => Ok(Order::Start(until)),
            (b'e', until) => Ok(Order::Extend(until)),
            (b's', _) => Ok(Order::Stop),
            (b'g', _) => Ok(Order::Exit),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

impl Report {
    pub(crate) fn to_frame(self) -> Frame {
        // The numbers are process ids, signals and statuses: never negative.
        let number = |number: i32| u64::from(number.unsigned_abs());
        match self {
            Report::Started(pid) => encode(b'S', number(pid)),
            Report::NotStarted(error) => encode(b'N', number(error)),
            Report::Stopping { by_outer } => encode(b'T', u64::from(by_outer)),
            Report::Suspended(signal) => encode(b'Z', number(signal)),
            Report::Exited(status) => encode(b'X', number(status)),
            Report::Killed(signal) => encode(b'K', number(signal)),
        }
    }

    pub(crate) fn from_frame(frame: Frame) -> io::Result<Report> {
        let (tag, number) = decode(frame);
        let number = i32::try_from(number).map_err(|_| io::ErrorKind::InvalidData)?;
        match tag {
            b'S' => Ok(Report::Started(number)),
            b'N' => Ok(Report::NotStarted(number)),
            b'T' => Ok(Report::Stopping { by_outer: number != 0 }),
            b'Z' => Ok(Report::Suspended(number)),
            b'X' => Ok(Report::Exited(number)),
            b'K' => Ok(Report::Killed(number)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// One end of the socket between the two.
#[derive(Debug)]
pub(crate) struct FrameSocket {
    socket: UnixStream,
    unread: Vec<u8>,
}

impl FrameSocket {
    pub(crate) fn new(socket: std::os::unix::net::UnixStream) -> io::Result<FrameSocket> {
        socket.set_nonblocking(true)?;
        Ok(FrameSocket { socket: UnixStream::from_std(socket)?, unread: Vec::new() })
    }

    /// Sends a frame, or gives up at once. A frame that does not fit was for somebody who has not
    /// read for hours; whoever never gets it believes in an earlier deadline, which is safe.
    pub(crate) fn send(&self, frame: Frame) {
        // Not `try_write`, which waits for a readiness event of the socket.
        let _ = rustix::net::send(&self.socket, &frame, SendFlags::NOSIGNAL);
    }

    /// The next frame; `None` if the other side has ended.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.unread.first_chunk::<FRAME_BYTES>().copied() {
                self.unread.drain(..FRAME_BYTES);
                return Some(frame);
            }
            self.socket.readable().await.ok()?;
            let mut bytes = [0; 16 * FRAME_BYTES];
            match self.socket.try_read(&mut bytes) {
                Ok(0) => return None,
                Ok(read) => self.unread.extend_from_slice(&bytes[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_read_back() {
        for order in [Order::Start(1), Order::Extend(u64::MAX), Order::Stop, Order::Exit] {
            assert_eq!(Order::from_frame(order.to_frame()).unwrap(), order);
        }
        let stopping = [true, false].map(|by_outer| Report::Stopping { by_outer });
        let reports = [Report::Started(i32::MAX), Report::NotStarted(2), Report::Suspended(20)];
        for report in reports.into_iter().chain(stopping).chain([Report::Exited(255), Report::Killed(9)]) {
            assert_eq!(Report::from_frame(report.to_frame()).unwrap(), report);
        }
        assert!(Order::from_frame([0; FRAME_BYTES]).is_err() && Report::from_frame([b'S'; FRAME_BYTES]).is_err());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_frame_in_two_pieces_is_one_frame_and_the_end_is_an_end() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut link = FrameSocket::new(ours).unwrap();
        let frame = Order::Extend(7).to_frame();
        io::Write::write_all(&mut &theirs, &frame[..4]).unwrap();
        let early = tokio::time::timeout(std::time::Duration::from_millis(20), link.next()).await;
        assert!(early.is_err());
        io::Write::write_all(&mut &theirs, &frame[4..]).unwrap();
        assert_eq!(link.next().await, Some(frame));
        drop(theirs);
        assert_eq!(link.next().await, None);
    }
}
