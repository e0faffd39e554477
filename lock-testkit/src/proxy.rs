//! [`Proxy`]: a TCP link that a test can hold, cut, delay, or rob of its replies.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// A TCP link to a server that a test can hold, cut, delay, or rob of its replies. Dropped, it is cut.
#[derive(Debug)]
pub struct Proxy {
    link: Arc<Link>,
    port: u16,
}

#[derive(Debug)]
struct Link {
    target: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    delay: Duration,
    /// Both ends of every connection, with whether a reply of it was lost.
    connections: Vec<Connection>,
    closed: bool,
}

#[derive(Debug)]
struct Connection {
    client: TcpStream,
    server: TcpStream,
    spoilt: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Forward,
    Hold,
    LoseReplies,
    Cut,
}

impl Proxy {
    /// A link to the server at this port of 127.0.0.1, which forwards.
    ///
    /// # Panics
    ///
    /// If no port is free.
    pub fn to(port: u16) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a listener on 127.0.0.1");
        let own = listener.local_addr().expect("a listener has an address").port();
        let state = State { mode: Mode::Forward, delay: Duration::ZERO, connections: Vec::new(), closed: false };
        let target = SocketAddr::from(([127, 0, 0, 1], port));
        let link = Arc::new(Link { target, state: Mutex::new(state), changed: Condvar::new() });
        let accepting = link.clone();
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
        Proxy { link, port: own }
    }

    /// The port at which the server is reached through this link.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Forwards again. What was held goes on; a connection that lost a reply is closed.
    pub fn forward(&self) {
        self.set(Mode::Forward);
    }

    /// Holds everything, both ways: connections stay open, and nothing arrives.
    pub fn hold(&self) {
        self.set(Mode::Hold);
    }

    /// Forwards what clients send, and loses what the server answers: "applied, but the reply is lost".
    pub fn lose_replies(&self) {
        self.set(Mode::LoseReplies);
    }

    /// Closes all connections, and every new one.
    pub fn cut(&self) {
        self.set(Mode::Cut);
    }

    /// Delays every piece, each way.
    pub fn delay(&self, delay: Duration) {
        self.link.locked().delay = delay;
    }

    fn set(&self, mode: Mode) {
        let mut state = self.link.locked();
        state.mode = mode;
        state.connections.retain(|connection| {
            let keep = mode != Mode::Cut && !(mode == Mode::Forward && connection.spoilt);
            if !keep {
                connection.close();
            }
            keep
        });
        drop(state);
        self.link.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.link.locked().closed = true;
        self.cut();
        // Wakes the thread that accepts.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

impl Connection {
    fn close(&self) {
        // It may be closed already, which is as good.
        drop(self.client.shutdown(Shutdown::Both));
        drop(self.server.shutdown(Shutdown::Both));
    }
}

impl Link {
    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(self: &Arc<Link>, client: TcpStream) {
        let mut state = self.locked();
        if state.mode == Mode::Cut {
            return;
        }
        let Ok(server) = TcpStream::connect(self.target) else { return };
        let pair = (client.try_clone(), server.try_clone(), client.try_clone(), server.try_clone());
        let (Ok(client_in), Ok(server_in), Ok(client_out), Ok(server_out)) = pair else { return };
        drop((client.set_nodelay(true), server.set_nodelay(true)));
        let port = client.peer_addr().map_or(0, |address| address.port());
        state.connections.push(Connection { client, server, spoilt: false });
        drop(state);
        let (up, down) = (self.clone(), self.clone());
        thread::spawn(move || up.pump(client_in, server_out, port, false));
        thread::spawn(move || down.pump(server_in, client_out, port, true));
    }

    /// Carries what comes `from` one end `to` the other, until one of them ends.
    fn pump(&self, mut from: TcpStream, mut to: TcpStream, port: u16, replies: bool) {
        let mut bytes = [0; 16 << 10];
        while let Ok(size @ 1..) = from.read(&mut bytes) {
            let mut state = self.locked();
            while state.mode == Mode::Hold {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if replies && state.mode == Mode::LoseReplies {
                let of_this = |connection: &&mut Connection| {
                    connection.client.peer_addr().is_ok_and(|address| address.port() == port)
                };
                if let Some(connection) = state.connections.iter_mut().find(of_this) {
                    connection.spoilt = true;
                }
                continue;
            }
            let delay = state.delay;
            drop(state);
            thread::sleep(delay);
            if to.write_all(&bytes[..size]).is_err() {
                break;
            }
        }
        drop((from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that gives every byte back, and counts them.
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
        stream.set_read_timeout(Some(crate::BOUND)).unwrap();
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
    fn a_cut_link_answers_nobody() {
        let proxy = Proxy::to(echo().0);
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        proxy.cut();
        assert!(!ask(&mut stream));
        assert!(!ask(&mut TcpStream::connect(("127.0.0.1", proxy.port())).unwrap()));
    }
}
