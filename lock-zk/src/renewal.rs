//! Renewals: a session's heartbeat, and what it shows of its leases.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use lock_core::kit::{Heartbeat, SessionBackend, SessionHandle};
use lock_core::{Claim, Clock, Holder, Moment, RenewalOutcome, Result, async_trait};

use crate::claim_state::ClaimState;
use crate::entry::QueueEntry;
use crate::entry_name::holder_of;
use crate::error::{CallError, classify};
use crate::factory::SessionFactory;
use crate::heartbeat::HeartbeatOutcome;
use crate::nodes::delete_node;
use crate::record::encode_claim;
use crate::session::{SessionState, ZkSession};

/// The most nodes into which a renewal writes the time of the grant.
const MAX_GRANT_TIMES_PER_RENEWAL: usize = 16;

#[async_trait]
impl SessionBackend for SessionFactory {
    type Handle = ZkSession;
    /// The path of a node.
    type Entry = String;

    fn session_ttl(&self, ttl: Duration) -> Duration {
        ttl.max(self.min_ttl())
    }

    async fn open(&self, ttl: Duration) -> Result<Arc<ZkSession>> {
        self.open_for(ttl, false).await
    }

    fn granted_entry(&self, session: &Arc<ZkSession>, claim: &Claim) -> Option<String> {
        let entry = ClaimState::of(claim).entry()?;
        let is_granted = entry.is_granted() && Arc::ptr_eq(entry.session(), session);
        entry.node_path().filter(|_| is_granted)
    }

    /// Makes one heartbeat in the background. Callers while one is in flight share it.
    async fn heartbeat(
        &self,
        session: &Arc<ZkSession>,
        clock: &Clock,
        granted: Vec<(Claim, String)>,
    ) -> Result<Heartbeat<String>> {
        let beating = || heartbeat_and_list(session.clone(), clock.clone(), self.layout().base().to_owned(), granted);
        let state = session.heartbeat_in_flight.run(beating).await?;
        let Some((since, nodes)) = &state.alive else {
            session.end(clock);
            return Ok(Heartbeat::Gone);
        };
        let (granted, entries) = (state.granted.clone(), nodes.clone());
        Ok(Heartbeat::Alive { since: *since, ttl: session.ttl, granted, entries })
    }

    /// A claim may have got another node since it was listed.
    async fn confirm_lost(&self, session: &Arc<ZkSession>, missing: Vec<(Claim, &String)>) -> Result<Vec<Claim>> {
        let is_lost = |claim: &Claim, path: &String| self.granted_entry(session, claim).is_none_or(|now| now == *path);
        let lost = missing.into_iter().filter(|(claim, path)| is_lost(claim, path));
        Ok(lost.map(|(claim, _)| claim).collect())
    }

    async fn renew_single(&self, clock: &Clock, claim: &Claim) -> Result<RenewalOutcome> {
        let Some(entry) = ClaimState::of(claim).entry() else { return Ok(RenewalOutcome::NotHeld) };
        let Some(path) = entry.node_path() else { return Ok(RenewalOutcome::NotHeld) };
        let session = entry.session();
        let HeartbeatOutcome::AliveSince(since) = session.heartbeat(clock, None).await? else {
            return Ok(RenewalOutcome::NotHeld);
        };
        // It follows the heartbeat on the same session, and sees at least what that saw.
        let stat = session.client().client()?.check_stat(&path).await;
        if stat.map_err(|failure| classify("renewing", failure, false))?.is_none() {
            return Ok(RenewalOutcome::NotHeld);
        }
        session.extend(clock.valid_until(since, session.ttl));
        Ok(RenewalOutcome::HeldSince(since, session.ttl))
    }

    async fn delete_orphans(&self, session: &Arc<ZkSession>, nodes: &HashSet<String>) -> Result<()> {
        let holders: HashSet<Holder> = session.session().claims().iter().map(Claim::holder).collect();
        let is_orphan = |node: &&String| {
            let holder = self.layout().split(node).and_then(|(_, child)| holder_of(child));
            holder.is_some_and(|holder| !holders.contains(&holder))
        };
        let client = session.client();
        let deletions = nodes.iter().filter(is_orphan).map(|node| {
            let node = node.clone();
            client.call(|client| delete_node(client, node, "deleting what nobody claims"))
        });
        for deleted in join_all(deletions).await {
            deleted?;
        }
        Ok(())
    }
}

/// One heartbeat of a session, and a list of the nodes that it has then.
async fn heartbeat_and_list(
    session: Arc<ZkSession>,
    clock: Clock,
    base: String,
    granted: Vec<(Claim, String)>,
) -> Result<Arc<SessionState>> {
    let alive = match confirm_and_list(&session, &clock, &base).await {
        Err(failed) if failed.session_is_gone => None,
        alive => alive?,
    };
    if alive.is_some() {
        write_grant_times(&session, &granted);
    }
    Ok(Arc::new(SessionState { granted: Arc::new(granted), alive }))
}

async fn confirm_and_list(
    session: &ZkSession,
    clock: &Clock,
    base: &str,
) -> Result<Option<(Moment, Arc<HashSet<String>>)>, CallError> {
    let HeartbeatOutcome::AliveSince(since) = session.heartbeat(clock, None).await? else { return Ok(None) };
    // A server has applied a write before it answers it, and serves no session with an older state
    // than the session has seen: so this sees at least what the last heartbeat saw, without another
    // `sync`.
    let nodes = session.client().client()?.list_ephemerals(base).await;
    let nodes = nodes.map_err(|failure| classify("reading what a session has", failure, false))?;
    Ok(Some((since, Arc::new(nodes.into_iter().collect()))))
}

/// Writes the time of the grant into some nodes whose claims queued, since it was not known when
/// they were made. It is for people, and no caller waits for it. A node that somebody else has
/// written to is left as it is.
fn write_grant_times(session: &Arc<ZkSession>, granted: &[(Claim, String)]) {
    let Ok(client) = session.client().client() else { return };
    let unwritten_since = |claim: &Claim| ClaimState::of(claim).entry().and_then(|entry| entry.unwritten_since());
    let due = granted.iter().filter_map(|(claim, path)| Some((claim, path, unwritten_since(claim)?)));
    for (claim, path, since) in due.take(MAX_GRANT_TIMES_PER_RENEWAL) {
        drop(client.set_data(path, &encode_claim(claim, session.ttl, Some(since)), Some(0)));
        ClaimState::of(claim).update(session, QueueEntry::since_written);
    }
}
