//! [`Resource`]: what the lock protects.

use lock_core::FencingToken;

/// A counter behind a fence, and the same counter without one.
#[derive(Default)]
pub(crate) struct Resource {
    highest: Option<FencingToken>,
    pub(crate) fenced: Counter,
    pub(crate) unfenced: Counter,
}

#[derive(Default)]
pub(crate) struct Counter {
    value: u64,
    writes: u64,
}

impl Resource {
    /// Reads both counters. The fence refuses a token of another realm, or a smaller one than it
    /// has seen.
    pub(crate) fn read(&mut self, token: &FencingToken) -> (Option<u64>, u64) {
        (self.admit(token).then_some(self.fenced.value), self.unfenced.value)
    }

    pub(crate) fn admit(&mut self, token: &FencingToken) -> bool {
        let admitted = self.highest.as_ref().is_none_or(|highest| token >= highest);
        if admitted {
            self.highest = Some(token.clone());
        }
        admitted
    }
}

impl Counter {
    pub(crate) fn write(&mut self, value: u64) {
        self.value = value;
        self.writes += 1;
    }

    pub(crate) fn lost(&self) -> u64 {
        self.writes - self.value
    }
}
