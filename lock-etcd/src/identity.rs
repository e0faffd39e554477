//! [`ClusterIdentity`]: the cluster that a handle belongs to, and its greatest known revision.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, OnceLock};

use etcd_client::ResponseHeader;
use lock_core::kit::locked;
use lock_core::{Claim, Clock, Effect, Error, ErrorKind, Holder, LossReason, RenewalBatch, Result, Session};

use crate::reply::Reply;

/// The cluster that a handle belongs to, and its greatest known revision.
///
/// Every reply of etcd has the id of its cluster and a revision. If another cluster replies, or
/// this one with older data than before, nothing that this handle believes holds there: all its
/// locks are lost at once, and it refuses every later call. Its tokens are never mixed with those
/// of the other data.
///
/// The id alone is not enough. Etcd derives it from the members' addresses and from a token that is
/// rarely changed, so that a cluster that starts anew at the same addresses, or from a backup, has
/// its old id. Then the revision, which never falls, and the realm, which is kept beside the data,
/// show the difference.
#[derive(Debug, Default)]
pub(crate) struct ClusterIdentity {
    id: OnceLock<u64>,
    /// The greatest revision in any reply.
    revision: AtomicI64,
    /// The reason why this handle refuses every call.
    refusal: OnceLock<Error>,
    dependents: Mutex<Dependents>,
}

/// The sessions and claims that are lost if another cluster replies.
#[derive(Debug, Default)]
struct Dependents {
    sessions: Vec<Session>,
    /// Claims with an etcd lease of their own.
    claims: HashMap<Holder, Claim>,
}

impl ClusterIdentity {
    /// The cluster's id; `None` before the first reply.
    pub(crate) fn id(&self) -> Option<u64> {
        self.id.get().copied()
    }

    /// The greatest revision in any reply: a linearizable call that is sent from now on shows at
    /// least this one.
    pub(crate) fn revision(&self) -> i64 {
        self.revision.load(Ordering::Acquire)
    }

    /// Fails if another cluster has replied.
    pub(crate) fn check_not_refused(&self) -> Result<()> {
        self.refusal.get().map_or(Ok(()), |refusal| Err(refusal.clone()))
    }

    /// Compares a reply of `member` with the known cluster; `known_revision` is the one from before
    /// its call was sent.
    pub(crate) fn check<T: Reply>(&self, member: &str, reply: &T, known_revision: i64) -> Result<()> {
        match reply.header() {
            Some(header) => self.check_header(member, header, if T::LINEARIZABLE { known_revision } else { 0 }),
            None if T::LINEARIZABLE => Err(Error::unexpected_reply("an answer of etcd has no header")),
            None => self.check_not_refused(),
        }
    }

    fn check_header(&self, member: &str, header: &ResponseHeader, least: i64) -> Result<()> {
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

    /// Ends all sessions and claims of this handle, and refuses every later call.
    pub(crate) fn refuse(&self, reason: &str) -> Error {
        let text = format!("{reason}; all locks of this handle are lost, and the store must be opened anew");
        let refused = Error::new(ErrorKind::Protocol, Effect::None, text);
        let refusal = self.refusal.get_or_init(|| {
            tracing::error!(error = %refused, "another cluster of etcd answers");
            refused
        });
        let dependents = std::mem::take(&mut *locked(&self.dependents));
        dependents.sessions.iter().for_each(|session| session.end(LossReason::SessionEnded));
        let claims = RenewalBatch::new(&Clock::system(), dependents.claims.into_values());
        claims.leases().for_each(|(renewal, claim)| renewal.not_held(claim));
        refusal.clone()
    }

    /// Adds a session of this cluster. It ends at once if another cluster replies.
    pub(crate) fn register_session(&self, session: &Session) {
        let mut dependents = locked(&self.dependents);
        dependents.sessions.retain(Session::is_valid);
        dependents.sessions.push(session.clone());
        drop(dependents);
        // A concurrent refusal may have read the list before.
        if self.refusal.get().is_some() {
            session.end(LossReason::SessionEnded);
        }
    }

    /// Adds a claim with an etcd lease of its own. It is lost at once if another cluster replies.
    pub(crate) fn register_claim(&self, claim: &Claim) {
        locked(&self.dependents).claims.insert(claim.holder(), claim.clone());
    }

    /// Removes a claim that is being released.
    pub(crate) fn unregister_claim(&self, claim: &Claim) {
        locked(&self.dependents).claims.remove(&claim.holder());
    }
}
