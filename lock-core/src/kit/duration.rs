//! [`check_duration`]: times of a configuration in their range.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::words::{Error, Result};

/// Range of the time limits that every store takes, such as `connect_timeout` and
/// `response_timeout`: 1 millisecond to 60 seconds.
pub const TIMEOUT_RANGE: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(60);

/// Checks that a time of a configuration is in its range.
///
/// # Errors
///
/// [`InvalidConfig`](crate::ErrorKind::InvalidConfig); the text names the key, the value and the
/// range.
pub fn check_duration(key: &str, value: Duration, range: &RangeInclusive<Duration>) -> Result<()> {
    if range.contains(&value) {
        return Ok(());
    }
    let (value, least, most) = (shown(value), shown(*range.start()), shown(*range.end()));
    Err(Error::invalid_config(format!("{key}={value} is not accepted: it takes {least} to {most}")))
}

fn shown(time: Duration) -> String {
    if time.is_zero() { "0s".to_owned() } else { format!("{time:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_out_of_its_range_is_refused_with_key_value_and_range() {
        for time in [Duration::from_millis(1), Duration::from_secs(60)] {
            assert!(check_duration("response_timeout", time, &TIMEOUT_RANGE).is_ok(), "{time:?}");
        }
        for (time, value) in
            [(Duration::ZERO, "0s"), (Duration::from_micros(999), "999µs"), (Duration::from_secs(61), "61s")]
        {
            let error = check_duration("response_timeout", time, &TIMEOUT_RANGE).unwrap_err();
            let text = format!("response_timeout={value} is not accepted: it takes 1ms to 60s");
            assert_eq!(error.to_string(), text);
        }
    }
}
