//! [`end_session`]: ends a session in place of its client.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Takes over a session and ends it. Returns `Some(true)` if there is no such session any more,
/// `Some(false)` if it was taken over (its own client may take it back before the end arrives), and
/// `None` if the server does not answer.
pub(super) fn end_session(port: u16, session: i64) -> Option<bool> {
    let mut connect = Vec::new();
    connect.extend(0_i32.to_be_bytes());
    connect.extend(0_i64.to_be_bytes());
    connect.extend(120_000_i32.to_be_bytes());
    connect.extend(session.to_be_bytes());
    connect.extend(16_i32.to_be_bytes());
    // ZooKeeper derives the password of a session from its id with a constant of its source code.
    connect.extend(java_bytes(session ^ 0xB341_5C00));
    connect.push(0);
    // Request 1: closeSession.
    let end = [1_i32.to_be_bytes(), (-11_i32).to_be_bytes()].concat();
    let packet = |body: &[u8]| [&(body.len() as i32).to_be_bytes(), body].concat();

    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    stream.write_all(&[packet(&connect), packet(&end)].concat()).ok()?;
    // Length, protocol version and time-out precede the session id, which is zero if the session
    // has expired.
    let mut answer = [0; 20];
    stream.read_exact(&mut answer).ok()?;
    let is_gone = answer[12..] == [0; 8];
    // The server closes the connection when the session has ended or was taken back.
    drop(stream.read_to_end(&mut Vec::new()));
    Some(is_gone)
}

/// The first 16 bytes of `java.util.Random` with this seed.
fn java_bytes(seed: i64) -> [u8; 16] {
    const MASK: u64 = (1 << 48) - 1;
    const FACTOR: u64 = 0x5_DEEC_E66D;
    let mut state = (seed as u64 ^ FACTOR) & MASK;
    let mut bytes = [0; 16];
    for four in bytes.chunks_mut(4) {
        state = state.wrapping_mul(FACTOR).wrapping_add(0xB) & MASK;
        four.copy_from_slice(&((state >> 16) as u32).to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_javas_generator_are_known() {
        // new java.util.Random(42).nextInt() is -1170105035.
        assert_eq!(java_bytes(42)[..4], (-1_170_105_035_i32).to_le_bytes());
    }
}
