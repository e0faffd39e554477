//! The requests of a [`Mutant`].

use std::sync::atomic::Ordering;
use std::time::Duration;

use lock_core::{
    Attempt, Claim, Clock, Contention, Effect, Error, ErrorKind, FencingToken, HeldBy, Lease, LockStore, Realm,
    RenewalBatch, Result, Retention, Space,
};

use super::flaw::Flaw;
use super::mutant::{Mutant, locked};

impl Mutant {
    /// The answer of a flaw that answers by itself; `None` for all others.
    pub(super) async fn flawed_attempt(&self, claim: &Claim, is_repeated: bool) -> Result<Option<Attempt>> {
        Ok(match self.flaw {
            Flaw::RetryBlocksItself if locked(&self.state.granted).contains_key(&claim.holder()) => {
                let mut by = HeldBy::holder(claim.holder());
                by.remaining = Some(claim.ttl());
                Some(Attempt::Held(Contention::new(by, claim.ttl() / 10)))
            }
            Flaw::RetryKeepsTheOldEnd => {
                let before = locked(&self.state.granted).get(&claim.holder()).cloned();
                before.map(|(ttl, token)| Attempt::Granted(Lease::new(ttl, token, Retention::Complete)))
            }
            Flaw::LastComeFirstServed => Some(self.request_last_first(claim, is_repeated).await?),
            Flaw::GrantsEveryTenth if self.state.count.fetch_add(1, Ordering::SeqCst) % 10 == 9 => {
                let token = self.token(claim, 1 << 40);
                Some(Attempt::Granted(Lease::new(claim.ttl(), token, Retention::Complete)))
            }
            Flaw::SaysNoEffectThoughApplied if self.state.count.fetch_add(1, Ordering::SeqCst) % 4 == 3 => {
                self.request_inner(claim).await?;
                return Err(Error::new(ErrorKind::Unavailable, Effect::None, "it says that nothing changed"));
            }
            _ => None,
        })
    }

    /// The answer of the inner store, which some flaws prepare or change.
    pub(super) async fn attempt(&self, claim: &Claim, is_repeated: bool) -> Result<Attempt> {
        let shadow = self.shadow(claim);
        match self.flaw {
            Flaw::WaitersMoveToTheEnd if is_repeated => {
                let by = self.inner.inspect(shadow.name(), Space::Locks).await?;
                if by.into_iter().next().is_some_and(|by| by.holder != Some(shadow.holder())) {
                    self.inner.release(shadow, Duration::ZERO).await?;
                }
            }
            Flaw::TryExtendsTheLeaseInTheWay => {
                let by = self.inner.inspect(shadow.name(), Space::Locks).await?;
                let holder = by.into_iter().next().and_then(|by| locked(&self.state.claims).get(&by.holder?).cloned());
                if let Some(holder) = holder {
                    let batch = RenewalBatch::new(&Clock::system(), [self.shadow(&holder).clone()]);
                    _ = self.inner.renew(&batch).await;
                }
            }
            Flaw::GrantsWhatIsHeld => {
                self.break_any_holder(&self.name(claim.name())).await?;
            }
            _ => {}
        }
        let attempt = self.request_inner(claim).await?;
        Ok(match (self.flaw, attempt) {
            (Flaw::WaitsForTheEndOfTheLease, Attempt::Held(held)) => {
                self.inner.release(shadow, Duration::ZERO).await?;
                Attempt::Held(Contention::new(held.by.clone(), held.by.remaining.unwrap_or(claim.ttl())))
            }
            (_, attempt) => attempt,
        })
    }

    async fn request_last_first(&self, claim: &Claim, is_repeated: bool) -> Result<Attempt> {
        let last = self.join_queue(claim);
        let by = self.inspect(claim.name(), Space::Locks).await?;
        if is_repeated && !last && by.is_empty() {
            return Ok(Attempt::Held(Contention::new(HeldBy::default(), Duration::from_millis(5))));
        }
        let attempt = self.request_inner(claim).await?;
        if let Attempt::Held(waiting) = attempt {
            self.inner.release(self.shadow(claim), Duration::ZERO).await?;
            return Ok(Attempt::Held(Contention::new(waiting.by, Duration::from_millis(5))));
        }
        if let Some(queue) = locked(&self.state.waiting).get_mut(claim.name()) {
            queue.retain(|holder| *holder != claim.holder());
        }
        Ok(attempt)
    }

    pub(super) async fn request_inner(&self, claim: &Claim) -> Result<Attempt> {
        let shadow = self.shadow(claim);
        if self.flaw == Flaw::RetryLosesTheToken && locked(&self.state.granted).contains_key(&claim.holder()) {
            return Ok(Attempt::Granted(Lease::new(claim.ttl(), None, Retention::Complete)));
        }
        let mut attempt = self.inner.request(shadow).await?;
        match &mut attempt {
            Attempt::Granted(lease) => {
                let number = lease.token.as_ref().map_or(0, FencingToken::number);
                lease.token = self.token(claim, number);
                if matches!(self.flaw, Flaw::KeepsHalfTheTtl | Flaw::NeverExpires) {
                    lease.ttl = claim.ttl();
                }
                locked(&self.state.granted).insert(claim.holder(), (lease.ttl, lease.token.clone()));
            }
            Attempt::Held(waiting) => waiting.by = self.outer_view(std::mem::take(&mut waiting.by)),
        }
        Ok(attempt)
    }

    /// Puts a waiter at the end of the queue; returns whether it is the last.
    fn join_queue(&self, claim: &Claim) -> bool {
        let mut waiting = locked(&self.state.waiting);
        let queue = waiting.entry(claim.name().clone()).or_default();
        if claim.queues() && !queue.contains(&claim.holder()) {
            queue.push(claim.holder());
        }
        queue.last().is_none_or(|last| *last == claim.holder())
    }

    /// The token that this mutant grants in place of the true one.
    fn token(&self, claim: &Claim, number: u64) -> Option<FencingToken> {
        let mut tokens = locked(&self.state.tokens);
        let number = match self.flaw {
            Flaw::ClaimsTokensAndGivesNone => return None,
            Flaw::TokenRestartsOnRelease => {
                let count = tokens.entry(claim.name().clone()).or_default();
                *count += u64::from(!locked(&self.state.granted).contains_key(&claim.holder()));
                *count
            }
            Flaw::TokenIsAlwaysTheSame => 1,
            Flaw::TokenFalls => u64::MAX - number,
            Flaw::TokenRepeatsAfterTheEnd => {
                let count = tokens.entry(claim.name().clone()).or_default();
                *count = (*count).max(1);
                *count
            }
            Flaw::RaiseLowersTheCounter => {
                let given = locked(&self.state.granted).get(&claim.holder()).and_then(|(_, token)| token.clone());
                given.map_or(number - self.state.count.load(Ordering::SeqCst), |given| given.number())
            }
            Flaw::RetryGetsANewToken => number + self.state.count.fetch_add(1, Ordering::SeqCst),
            _ => number,
        };
        let realm = match self.flaw {
            Flaw::TokenOfAnotherRealm => Realm::new("elsewhere"),
            _ => self.realm(),
        };
        Some(FencingToken::new(realm, number))
    }
}
