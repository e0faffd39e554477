//! [`WatchdogOrder`]: the arguments of a watchdog.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use super::stop_policy::StopPolicy;

/// The first argument of a watchdog.
const WATCHDOG_FLAG: &str = "--leasehold-watchdog";

/// The arguments of a watchdog.
#[derive(Debug)]
pub(crate) struct WatchdogOrder {
    pub(super) policy: StopPolicy,
    pub(super) command: Vec<OsString>,
}

impl WatchdogOrder {
    /// Reads the arguments of a process; `None` if it is no watchdog.
    pub(crate) fn from_args(args: impl Iterator<Item = OsString>) -> Option<WatchdogOrder> {
        let mut args = args.skip(1);
        if args.next()?.as_bytes() != WATCHDOG_FLAG.as_bytes() {
            return None;
        }
        let mut nanos = || args.next()?.to_str()?.parse().ok().map(Duration::from_nanos);
        let policy = StopPolicy { grace: nanos()?, lead: nanos()? };
        let command: Vec<_> = args.collect();
        (!command.is_empty()).then_some(WatchdogOrder { policy, command })
    }

    /// The arguments for a watchdog.
    pub(crate) fn args(policy: StopPolicy, command: &[OsString]) -> impl Iterator<Item = OsString> {
        let nanos = |time: Duration| OsString::from(time.as_nanos().to_string());
        [WATCHDOG_FLAG.into(), nanos(policy.grace), nanos(policy.lead)].into_iter().chain(command.iter().cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_reads_back_from_its_arguments() {
        let policy = StopPolicy { grace: Duration::from_secs(5), lead: Duration::from_nanos(7) };
        let command = ["cat".into(), OsString::from("-")];
        let args = std::iter::once("leasehold".into()).chain(WatchdogOrder::args(policy, &command));
        let order = WatchdogOrder::from_args(args).unwrap();
        assert_eq!((order.policy, order.command.as_slice()), (policy, command.as_slice()));
        assert!(WatchdogOrder::from_args(["leasehold".into(), "run".into()].into_iter()).is_none());
    }
}
