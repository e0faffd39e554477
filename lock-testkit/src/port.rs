//! [`free_port`]: a private port for a server.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};

/// Ports of servers. They are below the ephemeral ports: an outgoing connection could otherwise
/// take a server's port before the server binds it or while the server is down, and a client could
/// even connect to itself.
const PORT_RANGE: std::ops::Range<u16> = 10_000..32_000;

/// A port of 127.0.0.1 that has no listener and that no other test of this process got.
///
/// # Panics
///
/// If there is none left.
pub fn free_port() -> u16 {
    static USED: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut used = USED.lock().unwrap_or_else(PoisonError::into_inner);
    let used = used.get_or_insert_default();
    for _ in 0..1_000 {
        // Random, so that processes that run at the same time try different ports.
        let offset = RandomState::new().hash_one(used.len()) % PORT_RANGE.len() as u64;
        let port = PORT_RANGE.start + u16::try_from(offset).expect("it is less than the number of ports");
        if !used.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            used.insert(port);
            return port;
        }
    }
    panic!("no free port on 127.0.0.1 in 1,000 tries")
}
