//! [`Cluster`]: which cluster this is, and how far its history has come.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use etcd_client::ResponseHeader;
use etcd_client::{
    AlarmResponse, GetResponse, LeaseGrantResponse, LeaseRevokeResponse, LeaseTimeToLiveResponse, MemberListResponse,
    StatusResponse, TxnResponse,
};
use lock_core::{Claim, Clock, Effect, Error, ErrorKind, Holder, LossReason, RenewalBatch, Result, Session};

/// Which cluster a handle belongs to, and how far that cluster's history has come.
///
/// Every answer of etcd says which cluster it is from, and at which revision. Where another cluster answers, or this one
/// from data that are older than what it has shown before, nothing that this handle believes holds there: all its locks
/// are lost at once, and it refuses to go on. Its tokens are never mixed with those of the other data.
///
/// The id alone does not tell: etcd makes it of the members' addresses and of a word that nearly everybody leaves as
/// it is, so that a cluster that begins anew at the same place, or from a backup, has its old id. What tells then is the
/// revision, which never falls, and the realm, which is kept beside the data.
#[derive(Debug, Default)]
pub(crate) struct ClusterIdentity {
    id: OnceLock<u64>,
    /// The greatest revision that any answer has shown.
    revision: AtomicI64,
    refusal: OnceLock<Error>,
    dependents: Mutex<Dependents>,
}

/// Those who believe in leases of this cluster.
#[derive(Debug, Default)]
struct Dependents {
    sessions: Vec<Session>,
    /// Claims with an etcd lease of their own.
    claims: HashMap<Holder, Claim>,
}

/// An answer to a call.
pub(crate) trait Reply {
    /// Whether the answer shows all that was answered before its call was sent.
    const LINEARIZABLE: bool = false;
    /// Whether etcd says of a login that has run out that this call is not permitted.
    const DENIES_EXPIRED_LOGINS: bool = false;

    /// Which cluster it is from; `None` for what a client has made of an answer.
    fn header(&self) -> Option<&ResponseHeader>;
}

impl ClusterIdentity {
    /// Its id, once it has answered.
    pub(crate) fn id(&self) -> Option<u64> {
        self.id.get().copied()
    }

    /// The greatest revision that any answer has shown: what is read from now on is at least as new.
    pub(crate) fn revision(&self) -> i64 {
        self.revision.load(Ordering::Acquire)
    }

    /// Refuses where another cluster has answered before.
    pub(crate) fn check_not_refused(&self) -> Result<()> {
        self.refusal.get().map_or(Ok(()), |refusal| Err(refusal.clone()))
    }

    /// Holds an answer of `member` against what is known; `seen` was the revision when its call was sent.
    pub(crate) fn check<T: Reply>(&self, member: &str, reply: &T, seen: i64) -> Result<()> {
        match reply.header() {
            Some(header) => self.compare(member, header, if T::LINEARIZABLE { seen } else { 0 }),
            None if T::LINEARIZABLE => Err(crate::error::unexpected_reply("an answer of etcd has no header")),
            None => self.check_not_refused(),
        }
    }

    fn compare(&self, member: &str, header: &ResponseHeader, least: i64) -> Result<()> {
        let (cluster_id, revision) = (header.cluster_id(), header.revision());
        let known = *self.id.get_or_init(|| cluster_id);
        if cluster_id != known {
            let reason =
                format!("the etcd member {member} belongs to another cluster: its id is {cluster_id:x}, not {known:x}");
            return Err(self.refuse(&reason));
        }
        if revision < least {
            let reason = format!("etcd at {member} has older data than before: revision {revision} came after {least}");
            return Err(self.refuse(&reason));
        }
        self.revision.fetch_max(revision, Ordering::AcqRel);
        self.check_not_refused()
    }

    /// Ends all that this handle believes in, and refuses to go on.
    pub(crate) fn refuse(&self, reason: &str) -> Error {
        let text = format!("{reason}; all locks of this handle are lost, and the store must be opened anew");
        let refused = Error::new(ErrorKind::Protocol, Effect::None, text);
        let refusal = self.refusal.get_or_init(|| {
            tracing::error!(error = %refused, "another cluster of etcd answers");
            refused
        });
        let dependents = std::mem::take(&mut *self.dependents());
        dependents.sessions.iter().for_each(|session| session.end(LossReason::SessionEnded));
        for entry in &RenewalBatch::new(&Clock::system(), dependents.claims.into_values()) {
            if let lock_core::Beat::Lease(claim) = entry.of() {
                entry.not_held(claim);
            }
        }
        refusal.clone()
    }

    /// A session of this cluster; it is over at once if another cluster answers.
    pub(crate) fn register_session(&self, session: &Session) {
        let mut dependents = self.dependents();
        dependents.sessions.retain(Session::is_valid);
        dependents.sessions.push(session.clone());
        drop(dependents);
        // Refused meanwhile: who refused may have looked before.
        if self.refusal.get().is_some() {
            session.end(LossReason::SessionEnded);
        }
    }

    /// A claim with an etcd lease of its own; it is lost at once if another cluster answers.
    pub(crate) fn register_claim(&self, claim: &Claim) {
        self.dependents().claims.insert(claim.holder(), claim.clone());
    }

    /// This claim is given back.
    pub(crate) fn unregister_claim(&self, claim: &Claim) {
        self.dependents().claims.remove(&claim.holder());
    }

    fn dependents(&self) -> MutexGuard<'_, Dependents> {
        self.dependents.lock().unwrap_or_else(PoisonError::into_inner)
    }
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

// What goes through the log of raft, or waits for it.
impl_reply!(true: GetResponse, TxnResponse, LeaseGrantResponse);
impl_reply!(false: AlarmResponse, LeaseRevokeResponse, LeaseTimeToLiveResponse, MemberListResponse, StatusResponse);
