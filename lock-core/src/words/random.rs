//! Random bits for identities and jitter, from the operating system.

use std::cell::RefCell;

/// 128 bits from the operating system's random source: an identity that is never given twice.
///
/// # Panics
///
/// If the operating system has no random source, in which case no secure program can run on it.
pub fn bits128() -> u128 {
    POOL.with(|pool| u128::from_be_bytes(pool.borrow_mut().take()))
}

/// The digits of [`bits128`]: 32 hexadecimal digits, for ids that are written as text.
///
/// # Panics
///
/// As [`bits128`].
pub fn hex128() -> String {
    format!("{:032x}", bits128())
}

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { process: 0, bytes: [0; POOL_BYTES], left: 0 }) };
}

const POOL_BYTES: usize = 512;

/// Random bytes, read many at a time: a call to the operating system costs as much as all else in
/// an acquisition that needs no network. No byte is used twice, not even after the process has
/// forked.
struct Pool {
    process: u32,
    bytes: [u8; POOL_BYTES],
    left: usize,
}

impl Pool {
    fn take(&mut self) -> [u8; 16] {
        let process = std::process::id();
        if self.left == 0 || self.process != process {
            getrandom::fill(&mut self.bytes).expect("the operating system's random source answers");
            (self.process, self.left) = (process, POOL_BYTES);
        }
        self.left -= 16;
        let mut taken = [0; 16];
        taken.copy_from_slice(&self.bytes[self.left..][..16]);
        taken
    }
}
