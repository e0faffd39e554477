//! [`free_port`]: a private port for a server.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};

/// Below the ports that a system gives to outgoing connections, one of which could take a port before its server does,
/// or while the server is down; a client could even connect to itself there.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// A port of 127.0.0.1 that nobody listens on, and that this process gave to no other test.
///
/// # Panics
///
/// If there is none left.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let given = given.get_or_insert_default();
    for _ in 0..1_000 {
        // By chance, so that processes at the same time do not try the same.
        let chance = RandomState::new().hash_one(given.len()) % PORTS.len() as u64;
        let port = PORTS.start + u16::try_from(chance).expect("it is less than the number of ports");
        if !given.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            given.insert(port);
            return port;
        }
    }
    panic!("no free port on 127.0.0.1 in 1,000 tries")
}
