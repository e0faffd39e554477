//! [`Reply`]: the header of etcd's replies.

use etcd_client::{
    AlarmResponse, GetResponse, LeaseGrantResponse, LeaseKeepAliveResponse, LeaseRevokeResponse,
    LeaseTimeToLiveResponse, MemberListResponse, ResponseHeader, StatusResponse, TxnResponse, WatchResponse,
};

/// A reply to a call.
pub(crate) trait Reply {
    /// The reply reflects everything that etcd had replied before its call was sent.
    const LINEARIZABLE: bool = false;
    /// Etcd answers this call with "permission denied" if the login has expired.
    const DENIES_EXPIRED_LOGINS: bool = false;

    /// The header, which names the cluster and its revision; `None` for a value that the client
    /// made itself.
    fn header(&self) -> Option<&ResponseHeader>;
}

macro_rules! impl_reply {
    ($linearizable:literal: $($reply:ty),+) => {
        $(impl Reply for $reply {
            const LINEARIZABLE: bool = $linearizable;

            fn header(&self) -> Option<&ResponseHeader> {
                self.header()
            }
        })+
    };
}

// These go through raft's log, or wait for it.
impl_reply!(true: GetResponse, TxnResponse, LeaseGrantResponse);
impl_reply!(false: AlarmResponse, LeaseRevokeResponse, LeaseTimeToLiveResponse, MemberListResponse, StatusResponse);
impl_reply!(false: LeaseKeepAliveResponse, WatchResponse);
