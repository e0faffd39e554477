//! [`free_port`]: a private port for a server.

use std::collections::HashSet;
use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};

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
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a listener on 127.0.0.1");
        let port = listener.local_addr().expect("a listener has an address").port();
        if given.insert(port) {
            return port;
        }
    }
    panic!("no free port on 127.0.0.1 in 1,000 tries")
}
