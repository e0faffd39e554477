//! Renewal: rounds of a session's heartbeat, and what they show of its leases.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::future::{FutureExt as _, join_all};
use lock_core::{Beat, Claim, Clock, Holder, Renewal, RenewalBatch, RenewalOutcome, Result, runtime};

use crate::claim_state::ClaimState;
use crate::entry::QueueEntry;
use crate::entry_name::holder_of;
use crate::error::{CallError, classify, session_ended, unexpected_reply};
use crate::heartbeat::HeartbeatOutcome;
use crate::nodes::delete_node;
use crate::record::HolderRecord;
use crate::round::{AliveSession, RenewalRound};
use crate::session::ZkSession;
use crate::store::ZkStore;
use crate::sync::locked;

/// The most nodes into which a renewal round writes the time of the grant.
const MAX_GRANT_TIMES_PER_ROUND: usize = 16;

impl ZkStore {
    /// Answers one renewal of a batch.
    pub(crate) async fn renew_one(&self, batch: &RenewalBatch, renewal: &Renewal) -> Result<()> {
        match renewal.of() {
            Beat::Lease(claim) => {
                let answer = self.renew_fixed(batch.clock(), claim).await?;
                renewal.answer(answer);
            }
            Beat::Session(core_session) => {
                let Some(session) = self.sessions.find(core_session) else {
                    return Err(unexpected_reply("BUG: a session of another store"));
                };
                self.renew_session(batch.clock(), renewal, &session).await?;
            }
        }
        Ok(())
    }

    /// Renews a fixed lease, which has a session of its own.
    async fn renew_fixed(&self, clock: &Clock, claim: &Claim) -> Result<RenewalOutcome> {
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

    /// Answers the renewal of a session by one round. The losses are reported before the answer, so
    /// that a lease whose node was deleted is lost before the session is believed in any longer.
    async fn renew_session(&self, clock: &Clock, renewal: &Renewal, session: &Arc<ZkSession>) -> Result<()> {
        let round = session.renewal_round(clock, self.layout.base()).await?;
        let Some(alive) = &round.alive else {
            session.end(clock);
            renewal.answer(RenewalOutcome::NotHeld);
            return Ok(());
        };
        let granted_node = |claim: &Claim| {
            let entry = ClaimState::of(claim).entry().filter(QueueEntry::is_granted);
            entry.and_then(|entry| entry.node_path())
        };
        for (claim, path) in round.granted.iter().filter(|(_, path)| !alive.nodes.contains(path)) {
            // The claim may have got another node since the round began.
            if granted_node(claim).is_none_or(|now| now == *path) {
                renewal.not_held(claim);
            }
        }
        renewal.answer(RenewalOutcome::HeldSince(alive.since, session.ttl));
        if round.start_cleanup() {
            self.write_grant_times(session, &round.granted);
            self.delete_orphans(session, &alive.nodes).await?;
        }
        Ok(())
    }

    /// Deletes entries without a claim. It follows the read of the nodes: a claim that came later
    /// has none among them.
    async fn delete_orphans(&self, session: &Arc<ZkSession>, nodes: &HashSet<String>) -> Result<(), CallError> {
        let Some(core_session) = session.core_session() else { return Ok(()) };
        let holders: HashSet<Holder> = core_session.claims().iter().map(Claim::holder).collect();
        let is_orphan = |node: &&String| {
            let holder = self.layout.split(node).and_then(|(_, child)| holder_of(child));
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

    /// Writes the time of the grant into some nodes whose claims queued, since it was not known
    /// when they were made. It is for people, and no caller waits for it. A node that somebody else
    /// has written to is left as it is.
    fn write_grant_times(&self, session: &Arc<ZkSession>, granted: &[(Claim, String)]) {
        let Ok(client) = session.client().client() else { return };
        let unwritten_since = |claim: &Claim| ClaimState::of(claim).entry().and_then(|entry| entry.unwritten_since());
        let due = granted.iter().filter_map(|(claim, path)| Some((claim, path, unwritten_since(claim)?)));
        for (claim, path, since) in due.take(MAX_GRANT_TIMES_PER_ROUND) {
            drop(client.set_data(path, &HolderRecord::encode(claim, session.ttl, Some(since)), Some(0)));
            ClaimState::of(claim).update(session, QueueEntry::since_written);
        }
    }
}

impl ZkSession {
    /// Makes one renewal round in the background. Callers while one is in flight share it: a second
    /// one would only make both slower.
    async fn renewal_round(self: &Arc<Self>, clock: &Clock, base: &str) -> Result<Arc<RenewalRound>, CallError> {
        let background = runtime::background()?;
        let round = {
            let mut in_flight = locked(&self.round);
            match in_flight.as_ref() {
                Some(round) => round.clone(),
                None => {
                    let task = background.spawn(RoundInFlight(self.clone()).run(clock.clone(), base.to_owned()));
                    let round = async move { task.await.unwrap_or_else(|_| Err(session_ended())) };
                    in_flight.insert(round.boxed().shared()).clone()
                }
            }
        };
        round.await
    }

    /// The claims that have a lease on this session, with the paths of their nodes.
    fn granted_claims(self: &Arc<Self>) -> Vec<(Claim, String)> {
        let granted_node = |claim: Claim| {
            let entry = ClaimState::of(&claim).entry()?;
            let is_granted = entry.is_granted() && Arc::ptr_eq(entry.session(), self);
            let path = entry.node_path().filter(|_| is_granted)?;
            Some((claim, path))
        };
        let core_session = self.core_session();
        core_session.map(|session| session.claims().into_iter().filter_map(granted_node).collect()).unwrap_or_default()
    }
}

/// A session whose round is in flight, until this is dropped.
struct RoundInFlight(Arc<ZkSession>);

impl RoundInFlight {
    async fn run(self, clock: Clock, base: String) -> Result<Arc<RenewalRound>, CallError> {
        // Before the read: a claim that is granted during it may be missing there.
        let granted = self.0.granted_claims();
        let alive = match self.heartbeat_and_list(&clock, &base).await {
            Err(failed) if failed.session_is_gone => None,
            alive => alive?,
        };
        Ok(Arc::new(RenewalRound::new(granted, alive)))
    }

    async fn heartbeat_and_list(&self, clock: &Clock, base: &str) -> Result<Option<AliveSession>, CallError> {
        let HeartbeatOutcome::AliveSince(since) = self.0.heartbeat(clock, None).await? else { return Ok(None) };
        // A server has applied a write before it answers it, and serves no session with an older
        // state than the session has seen: so this sees at least what the last heartbeat saw,
        // without another `sync`.
        let nodes = self.0.client().client()?.list_ephemerals(base).await;
        let nodes = nodes.map_err(|failure| classify("reading what a session has", failure, false))?;
        Ok(Some(AliveSession { since, nodes: nodes.into_iter().collect() }))
    }
}

impl Drop for RoundInFlight {
    fn drop(&mut self) {
        locked(&self.0.round).take();
    }
}
