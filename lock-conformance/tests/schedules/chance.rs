//! Random choices.

use std::time::Duration;

use lock_conformance::Random;

/// True with probability 1 / `times`.
pub(crate) fn one_in(random: &mut Random, times: u64) -> bool {
    random.below(times) == 0
}

/// A duration below `max`.
pub(crate) fn up_to(random: &mut Random, max: Duration) -> Duration {
    Duration::from_micros(random.below(max.as_micros() as u64))
}
