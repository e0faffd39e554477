//! [`Proxy`]: a TCP proxy that a test can hold, cut, delay, or make lose replies.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// A TCP proxy to a server that a test can hold, cut, delay, or make lose replies. Dropped, it is
/// cut.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    port: u16,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    target: SocketAddr,
    mode: Mode,
    delay: Duration,
    connections: Vec<Connection>,
    /// Ids of the processes whose connections are refused.
    blocked: HashSet<u32>,
    closed: bool,
}

/// Both ends of a forwarded connection.
#[derive(Debug)]
struct Connection {
    client: TcpStream,
    server: TcpStream,
    /// A reply was lost: its client waits for an answer that never comes.
    lost_reply: bool,
    /// Its traffic is dropped.
    is_dropped: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Forward,
    Hold,
    LoseReplies,
    Cut,
}

impl Proxy {
    /// A forwarding proxy to the server at this port of 127.0.0.1.
    ///
    /// # Panics
    ///
    /// If no port is free.
    pub fn to(port: u16) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a listener on 127.0.0.1");
        let own = listener.local_addr().expect("a listener has an address").port();
        let state = State {
            target: SocketAddr::from(([127, 0, 0, 1], port)),
            mode: Mode::Forward,
            delay: Duration::ZERO,
            connections: Vec::new(),
            blocked: HashSet::new(),
            closed: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let accepting = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                if accepting.locked().closed {
                    return;
                }
                if let Ok(client) = client {
                    accepting.connect(client);
                }
            }
        });
        Proxy { shared, port: own }
    }

    /// The port of the proxy.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Forwards again. Held traffic continues; a connection that lost a reply is closed.
    pub fn forward(&self) {
        self.set(Mode::Forward);
    }

    /// Holds all traffic, both ways: connections stay open, and nothing arrives.
    pub fn hold(&self) {
        self.set(Mode::Hold);
    }

    /// Changes the target to another port of 127.0.0.1: all connections are closed, and new ones go
    /// there.
    pub fn retarget(&self, port: u16) {
        self.cut();
        self.shared.locked().target = SocketAddr::from(([127, 0, 0, 1], port));
        self.forward();
    }

    /// Forwards requests and loses replies: "applied, but the reply is lost".
    pub fn lose_replies(&self) {
        self.set(Mode::LoseReplies);
    }

    /// Closes all connections and refuses new ones.
    pub fn cut(&self) {
        self.set(Mode::Cut);
    }

    /// Closes the connections of one process and refuses its new ones.
    pub fn block_process(&self, pid: u32) {
        let mut state = self.shared.locked();
        state.blocked.insert(pid);
        state.connections.retain(|connection| {
            let keep = !connection.client.peer_addr().is_ok_and(|address| belongs_to(address.port(), pid));
            if !keep {
                connection.close();
            }
            keep
        });
    }

    /// Accepts connections of this process again.
    pub fn unblock_process(&self, pid: u32) {
        self.shared.locked().blocked.remove(&pid);
    }

    /// Silently drops all traffic of the open connections, as a middlebox may do: they stay open,
    /// nothing arrives any more, and neither end gets an error. New connections are forwarded.
    pub fn drop_traffic(&self) {
        self.shared.locked().connections.iter_mut().for_each(|connection| connection.is_dropped = true);
    }

    /// Adds this latency in each direction. The delayed pieces are in flight at the same time.
    pub fn delay(&self, delay: Duration) {
        self.shared.locked().delay = delay;
    }

    fn set(&self, mode: Mode) {
        let mut state = self.shared.locked();
        state.mode = mode;
        state.connections.retain(|connection| {
            let keep = mode != Mode::Cut && !(mode == Mode::Forward && connection.lost_reply);
            if !keep {
                connection.close();
            }
            keep
        });
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.locked().closed = true;
        self.cut();
        // Wakes the accepting thread.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

impl Connection {
    fn close(&self) {
        // It may be closed already.
        drop(self.client.shutdown(Shutdown::Both));
        drop(self.server.shutdown(Shutdown::Both));
    }
}

impl Shared {
    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(self: &Arc<Shared>, client: TcpStream) {
        let mut state = self.locked();
        let from = client.peer_addr().map_or(0, |address| address.port());
        if state.mode == Mode::Cut || state.blocked.iter().any(|pid| belongs_to(from, *pid)) {
            return;
        }
        let Ok(server) = TcpStream::connect(state.target) else { return };
        let pair = (client.try_clone(), server.try_clone(), client.try_clone(), server.try_clone());
        let (Ok(client_in), Ok(server_in), Ok(client_out), Ok(server_out)) = pair else { return };
        drop((client.set_nodelay(true), server.set_nodelay(true)));
        state.connections.push(Connection { client, server, lost_reply: false, is_dropped: false });
        drop(state);
        let (up, down) = (self.clone(), self.clone());
        thread::spawn(move || up.pump(client_in, server_out, from, false));
        thread::spawn(move || down.pump(server_in, client_out, from, true));
    }

    /// Forwards traffic in one direction until one end closes.
    fn pump(self: &Arc<Shared>, mut from: TcpStream, mut to: TcpStream, port: u16, replies: bool) {
        let mut bytes = [0; 16 << 10];
        let mut line = None;
        while let Ok(size @ 1..) = from.read(&mut bytes) {
            let piece = &bytes[..size];
            let delay = self.locked().delay;
            if !delay.is_zero() && line.is_none() {
                line = self.delay_line(&to, port, replies);
            }
            // Once there is a delay line, everything takes it, so that the order stays.
            let delivered = match &line {
                Some(line) => line.send((Instant::now() + delay, piece.to_vec())).is_ok(),
                None => self.deliver(piece, &mut to, port, replies),
            };
            if !delivered {
                break;
            }
        }
        match line {
            // Its thread ends after everything in flight has arrived.
            Some(line) => drop(line),
            None => drop(to.shutdown(Shutdown::Both)),
        }
        drop(from.shutdown(Shutdown::Both));
    }

    /// Starts a thread that delivers each piece when it is due.
    fn delay_line(
        self: &Arc<Shared>,
        to: &TcpStream,
        port: u16,
        replies: bool,
    ) -> Option<mpsc::SyncSender<(Instant, Vec<u8>)>> {
        const MAX_IN_FLIGHT: usize = 1_024;
        let (shared, mut to) = (self.clone(), to.try_clone().ok()?);
        let (line, pieces) = mpsc::sync_channel::<(Instant, Vec<u8>)>(MAX_IN_FLIGHT);
        thread::spawn(move || {
            for (due, piece) in pieces {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                if !shared.deliver(&piece, &mut to, port, replies) {
                    break;
                }
            }
            drop(to.shutdown(Shutdown::Both));
        });
        Some(line)
    }

    /// Delivers a piece, waiting while the proxy holds; returns whether the connection can go on.
    fn deliver(&self, piece: &[u8], to: &mut TcpStream, port: u16, replies: bool) -> bool {
        let mut state = self.locked();
        while state.mode == Mode::Hold {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let loses = replies && state.mode == Mode::LoseReplies;
        let is_this =
            |connection: &&mut Connection| connection.client.peer_addr().is_ok_and(|address| address.port() == port);
        let is_dropped = state.connections.iter_mut().find(is_this).is_some_and(|connection| {
            connection.lost_reply |= loses;
            connection.is_dropped
        });
        drop(state);
        loses || is_dropped || to.write_all(piece).is_ok()
    }
}

/// Whether the local TCP socket with this port belongs to this process.
fn belongs_to(port: u16, pid: u32) -> bool {
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let end = format!(":{port:04X}");
    let inodes = sockets.lines().filter(|line| line.contains(&end)).filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        (columns.len() > 9 && columns[1].ends_with(&end)).then(|| format!("socket:[{}]", columns[9]))
    });
    let inodes: HashSet<String> = inodes.collect();
    let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    files.flatten().any(|file| {
        std::fs::read_link(file.path()).is_ok_and(|link| link.to_str().is_some_and(|link| inodes.contains(link)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An echo server that counts its bytes.
    fn echo() -> (u16, Arc<Mutex<usize>>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let (port, count) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(0)));
        let counted = count.clone();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let counted = counted.clone();
                thread::spawn(move || {
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).is_ok() {
                        *counted.lock().unwrap() += 1;
                        drop(stream.write_all(&byte));
                    }
                });
            }
        });
        (port, count)
    }

    fn ask(stream: &mut TcpStream) -> bool {
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        stream.write_all(b"x").is_ok() && stream.read_exact(&mut [0]).is_ok()
    }

    #[test]
    fn a_link_forwards_holds_and_goes_on() {
        let proxy = Proxy::to(echo().0);
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        assert!(ask(&mut stream));
        proxy.hold();
        assert!(!ask(&mut stream));
        proxy.forward();
        stream.set_read_timeout(Some(crate::WAIT_TIMEOUT)).unwrap();
        assert!(stream.read_exact(&mut [0]).is_ok(), "what was held arrives");
    }

    #[test]
    fn a_lost_reply_is_applied_and_its_connection_ends() {
        let (port, count) = echo();
        let proxy = Proxy::to(port);
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        assert!(ask(&mut stream));
        proxy.lose_replies();
        assert!(!ask(&mut stream));
        crate::until("its arrival", || (*count.lock().unwrap() == 2).then_some(()));
        proxy.forward();
        assert!(!ask(&mut stream));
        assert!(ask(&mut TcpStream::connect(("127.0.0.1", proxy.port())).unwrap()));
    }

    #[test]
    fn a_forgotten_connection_stays_open_and_carries_nothing_while_new_ones_do() {
        let proxy = Proxy::to(echo().0);
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        assert!(ask(&mut stream));
        proxy.drop_traffic();
        assert!(stream.write_all(b"x").is_ok());
        let silence = stream.read_exact(&mut [0]).unwrap_err();
        assert!(matches!(silence.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut), "{silence}");
        assert!(ask(&mut TcpStream::connect(("127.0.0.1", proxy.port())).unwrap()));
    }

    #[test]
    fn pieces_on_a_long_line_are_under_way_at_the_same_time() {
        const DELAY: Duration = Duration::from_millis(200);
        const PIECES: u32 = 100;
        const SIZE: usize = 16 << 10;
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let proxy = Proxy::to(listener.local_addr().unwrap().port());
        proxy.delay(DELAY);
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut vec![0; SIZE * PIECES as usize]).unwrap();
            stream.write_all(b"x").unwrap();
        });
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        stream.set_read_timeout(Some(crate::WAIT_TIMEOUT)).unwrap();
        let start = Instant::now();
        stream.write_all(&vec![0; SIZE * PIECES as usize]).unwrap();
        stream.read_exact(&mut [0]).unwrap();
        let took = start.elapsed();
        assert!(took >= 2 * DELAY, "there and back: {took:?}");
        assert!(took < PIECES * DELAY / 2, "one after the other: {took:?}");
    }

    #[test]
    fn a_link_can_be_cut_for_one_process() {
        let proxy = Proxy::to(echo().0);
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        let own = std::process::id();
        proxy.block_process(u32::MAX);
        assert!(ask(&mut stream));
        proxy.block_process(own);
        assert!(!ask(&mut stream));
        assert!(!ask(&mut TcpStream::connect(("127.0.0.1", proxy.port())).unwrap()));
        proxy.unblock_process(own);
        assert!(ask(&mut TcpStream::connect(("127.0.0.1", proxy.port())).unwrap()));
    }

    #[test]
    fn a_cut_link_answers_nobody() {
        let proxy = Proxy::to(echo().0);
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        proxy.cut();
        assert!(!ask(&mut stream));
        assert!(!ask(&mut TcpStream::connect(("127.0.0.1", proxy.port())).unwrap()));
    }
}
