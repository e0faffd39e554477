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
pub(crate) struct Cluster {
    id: OnceLock<u64>,
    /// The greatest revision that any answer has shown.
    revision: AtomicI64,
    refusal: OnceLock<Error>,
    believers: Mutex<Believers>,
}

/// Those who believe in leases of this cluster.
#[derive(Debug, Default)]
struct Believers {
    sessions: Vec<Session>,
    /// Claims with an etcd lease of their own.
    claims: HashMap<Holder, Claim>,
}

/// An answer to a call.
pub(crate) trait Answer {
    /// Whether the answer shows all that was answered before its call was sent.
    const LINEARIZABLE: bool = false;
    /// Whether etcd says of a login that has run out that this call is not permitted.
    const HIDES_OLD_LOGINS: bool = false;

    /// Which cluster it is from; `None` for what a client has made of an answer.
    fn header(&self) -> Option<&ResponseHeader>;
}

impl Cluster {
    /// Its id, once it has answered.
    pub(crate) fn id(&self) -> Option<u64> {
        self.id.get().copied()
    }

    /// The greatest revision that any answer has shown: what is read from now on is at least as new.
    pub(crate) fn revision(&self) -> i64 {
        self.revision.load(Ordering::Acquire)
    }

    /// Refuses where another cluster has answered before.
    pub(crate) fn admit(&self) -> Result<()> {
        self.refusal.get().map_or(Ok(()), |refusal| Err(refusal.clone()))
    }

    /// Holds an answer of `member` against what is known; `seen` was the revision when its call was sent.
    pub(crate) fn check<T: Answer>(&self, member: &str, answer: &T, seen: i64) -> Result<()> {
        match answer.header() {
            Some(header) => self.compare(member, header, if T::LINEARIZABLE { seen } else { 0 }),
            None if T::LINEARIZABLE => Err(crate::error::protocol("an answer of etcd has no header")),
            None => self.admit(),
        }
    }

    fn compare(&self, member: &str, header: &ResponseHeader, least: i64) -> Result<()> {
        let (cluster, revision) = (header.cluster_id(), header.revision());
        let known = *self.id.get_or_init(|| cluster);
        if cluster != known {
            let what =
                format!("the etcd member {member} belongs to another cluster: its id is {cluster:x}, not {known:x}");
            return Err(self.refuse(&what));
        }
        if revision < least {
            let what = format!("etcd at {member} has older data than before: revision {revision} came after {least}");
            return Err(self.refuse(&what));
        }
        self.revision.fetch_max(revision, Ordering::AcqRel);
        self.admit()
    }

    /// Ends all that this handle believes in, and refuses to go on.
    pub(crate) fn refuse(&self, what: &str) -> Error {
        let text = format!("{what}; all locks of this handle are lost, and the store must be opened anew");
        let refused = Error::new(ErrorKind::Protocol, Effect::None, text);
        let refusal = self.refusal.get_or_init(|| {
            tracing::error!(error = %refused, "another cluster of etcd answers");
            refused
        });
        let believers = std::mem::take(&mut *self.believers());
        believers.sessions.iter().for_each(|session| session.end(LossReason::SessionEnded));
        for entry in &RenewalBatch::new(&Clock::system(), believers.claims.into_values()) {
            if let lock_core::Beat::Lease(claim) = entry.of() {
                entry.not_held(claim);
            }
        }
        refusal.clone()
    }

    /// A session of this cluster; it is over at once if another cluster answers.
    pub(crate) fn carries(&self, session: &Session) {
        let mut believers = self.believers();
        believers.sessions.retain(Session::is_valid);
        believers.sessions.push(session.clone());
        drop(believers);
        // Refused meanwhile: who refused may have looked before.
        if self.refusal.get().is_some() {
            session.end(LossReason::SessionEnded);
        }
    }

    /// A claim with an etcd lease of its own; it is lost at once if another cluster answers.
    pub(crate) fn grants(&self, claim: &Claim) {
        self.believers().claims.insert(claim.holder(), claim.clone());
    }

    /// This claim is given back.
    pub(crate) fn forgets(&self, claim: &Claim) {
        self.believers().claims.remove(&claim.holder());
    }

    fn believers(&self) -> MutexGuard<'_, Believers> {
        self.believers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

macro_rules! answers {
    ($linearizable:literal: $($answer:ty),+) => {
        $(impl Answer for $answer {
            const LINEARIZABLE: bool = $linearizable;

            fn header(&self) -> Option<&ResponseHeader> {
                self.header()
            }
        })+
    };
}

// What goes through the log of raft, or waits for it.
answers!(true: GetResponse, TxnResponse, LeaseGrantResponse);
answers!(false: AlarmResponse, LeaseRevokeResponse, LeaseTimeToLiveResponse, MemberListResponse, StatusResponse);
