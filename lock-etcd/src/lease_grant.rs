//! Grants of etcd leases.

use std::sync::Arc;
use std::time::Duration;

use lock_core::Result;

use crate::call::CallKind;
use crate::members::Members;

/// Grants an etcd lease; gives its id and its TTL. Etcd counts whole seconds, and has a shortest
/// TTL.
///
/// A grant whose reply was lost leaves an etcd lease without keys, which ends by itself.
pub(crate) async fn grant(members: &Members, ttl: Duration) -> Result<(i64, Duration)> {
    let wanted = i64::try_from(whole_seconds(ttl)).unwrap_or(i64::MAX);
    let grant = |client: Arc<etcd_client::Client>| async move { client.lease_client().grant(wanted, None).await };
    let granted = members.call(CallKind::Request, "opening a session", grant).await?.value;
    Ok((granted.id(), Duration::from_secs(u64::try_from(granted.ttl()).unwrap_or(0))))
}

/// A TTL in whole seconds, rounded up.
pub(crate) fn whole_seconds(ttl: Duration) -> u64 {
    ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_of_a_second_is_rounded_up() {
        assert_eq!(whole_seconds(Duration::from_secs(3)), 3);
        assert_eq!(whole_seconds(Duration::from_millis(2_001)), 3);
        assert_eq!(whole_seconds(Duration::from_millis(1)), 1);
    }
}
