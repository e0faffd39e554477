//! Requests: taking a lock, or learning its holder.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use lock_core::kit::Submission;
use lock_core::runtime::background;
use lock_core::{Attempt, Claim, Contention, Error, ErrorKind, Lease, LockName, Result};

use crate::connections::Connections;
use crate::error;
use crate::reply::{RequestReply, TokenReply, status};
use crate::routed::Routed;
use crate::script::Script;
use crate::script_call::ScriptCall;
use crate::slot_batcher::Op;
use crate::store::RedisStore;
use crate::value::{flag, holder_prefix, millis};

/// Longest pause before a waiter asks again about a lock of another program, which publishes no
/// release.
const FOREIGN_POLL_INTERVAL: Duration = Duration::from_millis(200);

impl RedisStore {
    /// Requests a lock for a claim, and waits for the replicas if there is a grant.
    pub(crate) async fn request_lock(&self, claim: &Claim) -> Result<Attempt> {
        let slot = self.keys.lock_slot(claim.name());
        // Read before the request, so that a release after it is noticed.
        let key = self.keys.lock(claim.name());
        let connections = self.connections()?;
        let version = connections.router.channel_version(slot, &key);
        let sent = Instant::now();
        let TokenReply { answer, realm_id, connection } = self.send_request(&connections, slot, &key, claim).await?;
        let unexpected = || error::unexpected_reply(&connection.endpoint.to_string(), Script::Request.action());
        match RequestReply::parse(&answer).ok_or_else(unexpected)? {
            RequestReply::Granted { token, raised } => {
                self.warn_if_raised(raised, claim.name(), token);
                if let Some(acknowledgement) = &connections.acknowledgement {
                    Box::pin(self.acknowledge_grant(acknowledgement, claim, slot, &connection)).await?;
                }
                self.warm_up(claim, slot);
                let token = self.tokens.record(&realm_id, slot, token);
                Ok(Attempt::Granted(Lease::new(claim.ttl(), Some(token), connection.retention_at(sent))))
            }
            RequestReply::Held { by, remaining, counter } => {
                if !self.tokens.observe(&realm_id, slot, by.token(), counter) {
                    self.warn_of_token(claim.name(), by.token(), counter);
                }
                let retry_after = match remaining {
                    Some(remaining) if by.is_ours() => remaining,
                    Some(remaining) => remaining.min(FOREIGN_POLL_INTERVAL),
                    None => FOREIGN_POLL_INTERVAL,
                };
                let by = by.into_held_by(&self.tokens.realm(), remaining);
                Ok(Attempt::Held(Contention::new(by, retry_after).with_version(version)))
            }
            RequestReply::Withdrawn => {
                let text = format!("\"{}\": this claim was withdrawn before the server came to it", claim.name());
                Err(Error::refused(ErrorKind::Closed, text))
            }
        }
    }

    /// Sends a request, batched with others of the same time if calls are in flight already.
    async fn send_request(&self, connections: &Connections, slot: u16, key: &str, claim: &Claim) -> Result<TokenReply> {
        let permit = match connections.batchers.submit(slot, Op::Request, claim).await? {
            Submission::Alone(permit) => Some(permit),
            Submission::Batched(Some(reply)) => return Ok(reply),
            Submission::Batched(None) => None,
        };
        let make_call = |realm_id: &str, known: u64, may_be_new: bool| {
            let (mut ttl, mut highest) = (itoa::Buffer::new(), itoa::Buffer::new());
            let (ttl, highest) = (ttl.format(millis(claim.ttl())), highest.format(known));
            let (holder, suffix) = (holder_prefix(claim.holder()), self.info_suffixes.get(claim.info()));
            let (counter, tombstone) = (self.keys.counter(slot, realm_id), self.keys.tombstone(slot, claim.holder()));
            let arguments = [&*holder, ttl, &suffix, highest, flag(may_be_new)];
            ScriptCall::new(Script::Request, &[key, &counter, &tombstone], &arguments)
        };
        let Some(permit) = permit else { return Box::pin(self.run_with_realm(slot, make_call, None)).await };
        let (realm_id, known) = self.tokens.snapshot(slot);
        let routed = connections.router.run_with_permit(slot, make_call(&realm_id, known, false), None).await?;
        // A retry waits for a slot migration or another realm, and must not block the batch.
        drop(permit);
        match routed {
            Routed::Done(answer, connection) if status(&answer) != Some("new") => {
                Ok(TokenReply { answer, realm_id, connection })
            }
            Routed::Done(..) => Box::pin(self.run_with_realm(slot, make_call, Some(realm_id))).await,
            Routed::SlotSplit => Box::pin(self.run_with_realm(slot, make_call, None)).await,
        }
    }

    /// Connects the background runtime, which renews, at the first lease that is so short that
    /// connecting could make its first renewal late.
    fn warm_up(&self, claim: &Claim, slot: u16) {
        if self.is_background_warm.load(Ordering::Relaxed)
            || claim.is_fixed()
            || claim.ttl() >= 10 * self.config.connect_timeout
        {
            return;
        }
        let Ok(background) = background() else { return };
        self.is_background_warm.store(true, Ordering::Relaxed);
        let connections = self.connections.clone();
        // On a failure the renewal tries again, and reports the reason.
        background.spawn(async move { connections.get()?.warm_up(slot).await });
    }

    pub(crate) fn warn_if_raised(&self, raised: bool, name: &LockName, number: u64) {
        if raised {
            tracing::warn!(
                target: "leasehold",
                store = "redis",
                %name,
                token = number,
                "the fencing counter was too low, and was raised above the highest token known here: the server has lost data, and other tokens may be given twice"
            );
        }
    }

    /// Warns once of a lock with a token that its counter cannot have given.
    fn warn_of_token(&self, name: &LockName, token: u64, counter: u64) {
        if !self.has_warned_of_token.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                target: "leasehold",
                store = "redis",
                %name,
                token,
                counter,
                "the lock has a token that its counter cannot have given: another program or a hand wrote it, or the counter was lost; no counter is raised by it"
            );
        }
    }
}
