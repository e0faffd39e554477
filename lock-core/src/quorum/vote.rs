//! [`Vote`]: the state of one claim at one member of a quorum.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::call::bounded;
use crate::contract::{Attempt, Claim, LockStore, RaiseOutcome, ReleaseOutcome};
use crate::sync::locked;
use crate::words::{Effect, Error, ErrorKind, FencingToken, Realm, Result};

/// State that a quorum keeps with a claim.
pub(super) struct Votes {
    /// By member.
    pub(super) each: Vec<Arc<Vote>>,
    /// The token that was issued for this claim.
    token: Mutex<Option<FencingToken>>,
}

/// One claim at one member. Its calls are made one after the other, so that a release never
/// overtakes the request that it undoes. `turn` orders them; it is the only mutex of a quorum that
/// is held across an `await`.
pub(super) struct Vote {
    pub(super) claim: Claim,
    turn: tokio::sync::Mutex<()>,
    /// True if the member may have, or may still get, a lease of this claim.
    may_hold: AtomicBool,
    /// A release was cut off, and may still be applied. It could silently end a lease that this
    /// member grants to this holder, so the member has no vote for this claim any more.
    spoiled: AtomicBool,
}

impl Votes {
    pub(super) fn new(claim: &Claim, members: usize) -> Votes {
        let vote = || {
            let (may_hold, spoiled) = (AtomicBool::new(false), AtomicBool::new(false));
            Arc::new(Vote { claim: claim.for_member(), turn: tokio::sync::Mutex::new(()), may_hold, spoiled })
        };
        Votes { each: (0..members).map(|_| vote()).collect(), token: Mutex::default() }
    }

    /// Number of the token that was issued in this realm.
    pub(super) fn token(&self, realm: &Realm) -> Option<u64> {
        locked(&self.token).as_ref().filter(|token| token.realm() == realm).map(FencingToken::number)
    }

    pub(super) fn granted_token(&self, token: FencingToken) {
        *locked(&self.token) = Some(token);
    }

    pub(super) fn forget(&self) {
        *locked(&self.token) = None;
    }
}

impl Vote {
    pub(super) fn may_hold(&self) -> bool {
        self.may_hold.load(Ordering::Acquire)
    }

    pub(super) fn is_stale(&self) -> bool {
        self.spoiled.load(Ordering::Acquire)
    }

    /// Asks the member for its vote. A member that works on an earlier call for this claim until
    /// the time-out gives none.
    pub(super) async fn ask(&self, at: usize, store: &dyn LockStore, limit: Duration) -> Result<Attempt> {
        let silent = |why: &str| {
            Error::new(ErrorKind::Unavailable, Effect::Unknown, format!("member {} has not answered {why}", at + 1))
        };
        // A ballot that was decided without this member does not wait for it; the next ballot,
        // which may follow at once, does.
        let asked = tokio::time::Instant::now();
        let Ok(_turn) = tokio::time::timeout(limit, self.turn.lock()).await else {
            return Err(silent("an earlier call"));
        };
        let limit = limit.saturating_sub(asked.elapsed());
        if self.is_stale() {
            return Err(silent("an earlier release"));
        }
        let before = self.may_hold.swap(true, Ordering::AcqRel);
        let answer = bounded(at, limit, store.request(&self.claim)).await;
        let holds = match &answer {
            Ok(Attempt::Granted(_)) => true,
            Ok(Attempt::Held(_)) => self.claim.is_in_doubt(),
            Err(error) if error.may_have_taken_effect() => {
                self.claim.set_in_doubt();
                true
            }
            Err(_) => before,
        };
        self.may_hold.store(holds, Ordering::Release);
        answer
    }

    /// Raises the token of the lease that this claim has at the member.
    pub(super) async fn raise(
        &self,
        at: usize,
        store: &dyn LockStore,
        token: u64,
        limit: Duration,
    ) -> Result<RaiseOutcome> {
        let _turn = self.turn.lock().await;
        let raises = store.token_raiser().ok_or_else(|| {
            Error::refused(ErrorKind::Protocol, format!("member {} raises no tokens any more", at + 1))
        })?;
        bounded(at, limit, raises.raise(&self.claim, token)).await
    }

    /// Gives back the lease of this claim at the member.
    pub(super) async fn release(&self, at: usize, store: &dyn LockStore, limit: Duration) -> Result<ReleaseOutcome> {
        let _turn = self.turn.lock().await;
        let answer = bounded(at, limit, store.release(&self.claim, Duration::ZERO)).await;
        match &answer {
            Ok(_) => self.may_hold.store(false, Ordering::Release),
            Err(error) if error.may_have_taken_effect() => self.spoiled.store(true, Ordering::Release),
            Err(_) => {}
        }
        answer
    }
}
