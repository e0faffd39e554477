//! [`Roster`]: the members of a quorum, as one process knows them.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::call::{explained, interrupted, random_between, too_few};
use super::decision::{Decisions, rolls};
use super::forming::majority;
use super::member::Member;
use super::membership::Membership;
use super::present::{self, PresentMember};
use super::promises;
use super::roll::Roll;
use crate::contract::LockStore;
use crate::runtime;
use crate::sync::locked;
use crate::words::{Effect, Error, ErrorKind, Fault, Guarantees, Realm, Result};

/// The members of a quorum, as one process knows them: which of them are open, and the roll on
/// which the quorum stands.
///
/// A member that is down, or has no place, is retried when the quorum is used: in the background,
/// with a growing delay. No two of its mutexes are held together.
pub(super) struct Roster {
    pub(super) members: Vec<Slot>,
    pub(super) majority: usize,
    guarantees: OnceLock<Guarantees>,
    membership: Mutex<Arc<Membership>>,
    /// True if every member takes part, so that there is nothing to retry.
    is_whole: AtomicBool,
    trying: Mutex<Retry>,
}

pub(super) struct Slot {
    pub(super) member: Member,
    /// Set once: a store reconnects by itself.
    pub(super) store: OnceLock<Arc<dyn LockStore>>,
    /// The realm of its data, when it was last read.
    seen: Mutex<Option<Realm>>,
    /// Reason why it takes no part, if it does not.
    trouble: Mutex<Option<Error>>,
}

struct Retry {
    now: bool,
    next: Option<Instant>,
    pause: Duration,
}

/// Shortest and longest delay between two attempts.
const RETRY_DELAYS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
impl Roster {
    /// Opens at least a majority of these members.
    pub(super) async fn open(members: Vec<Member>) -> Result<Arc<Roster>> {
        if members.is_empty() {
            return Err(Error::invalid_config("a quorum needs members"));
        }
        let slot = |member: Member| {
            let store = member.store().map_or_else(OnceLock::new, OnceLock::from);
            Slot { member, store, seen: Mutex::default(), trouble: Mutex::default() }
        };
        let roster = Arc::new(Roster {
            majority: majority(members.len()),
            members: members.into_iter().map(slot).collect(),
            guarantees: OnceLock::new(),
            membership: Mutex::new(Arc::new(Membership::none(String::new()))),
            is_whole: AtomicBool::new(false),
            trying: Mutex::new(Retry { now: false, next: None, pause: RETRY_DELAYS.0 }),
        });
        roster.convene(false).await?;
        roster.retry_ended();
        Ok(roster)
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn guarantees(&self) -> Guarantees {
        self.guarantees.get().copied().unwrap_or(Guarantees::NONE)
    }

    pub(super) fn has_tokens(&self) -> bool {
        self.guarantees().tokens_survive.is_some()
    }

    pub(super) fn membership(&self) -> Arc<Membership> {
        locked(&self.membership).clone()
    }

    /// The store of a member, or the reason why there is none.
    pub(super) fn store(&self, at: usize) -> Result<Arc<dyn LockStore>> {
        self.members[at].store.get().cloned().ok_or_else(|| {
            let trouble = locked(&self.members[at].trouble).clone();
            trouble.unwrap_or_else(|| Error::refused(ErrorKind::Unavailable, format!("{} is away", self.describe(at))))
        })
    }

    /// The reason why a member takes no part, if it does not.
    pub(super) fn trouble(&self, at: usize) -> Option<Error> {
        locked(&self.members[at].trouble).clone()
    }

    pub(super) fn describe(&self, at: usize) -> String {
        self.members[at].member.called(at)
    }

    /// Notes a vote that does not count, of a member whose data have this realm. If the realm is
    /// new, the members are examined again soon.
    pub(super) fn suspect(self: &Arc<Self>, at: usize, realm: &Realm) {
        if locked(&self.members[at].seen).as_ref() == Some(realm) {
            return;
        }
        self.is_whole.store(false, Ordering::Release);
        let mut trying = locked(&self.trying);
        trying.pause = RETRY_DELAYS.0;
        trying.next = trying.next.map(|next| next.min(Instant::now() + RETRY_DELAYS.0));
        drop(trying);
        self.maintain();
    }

    /// Retries to bring the members together, if a retry is due.
    pub(super) fn maintain(self: &Arc<Self>) {
        if self.is_whole.load(Ordering::Acquire) {
            return;
        }
        let mut trying = locked(&self.trying);
        if trying.now || trying.next.is_some_and(|next| Instant::now() < next) {
            return;
        }
        // If there is no background thread, a later call retries.
        let Ok(background) = runtime::for_engine() else { return };
        trying.now = true;
        drop(trying);
        let roster = self.clone();
        background.spawn(async move {
            if let Err(error) = roster.convene(false).await {
                tracing::debug!(target: "leasehold", store = "quorum", %error, "the members were not brought together");
            }
            roster.retry_ended();
        });
    }

    /// Schedules the next retry.
    fn retry_ended(&self) {
        let mut trying = locked(&self.trying);
        trying.now = false;
        if self.is_whole.load(Ordering::Acquire) {
            (trying.next, trying.pause) = (None, RETRY_DELAYS.0);
        } else {
            trying.next = Some(Instant::now() + random_between(trying.pause / 2, trying.pause));
            trying.pause = (trying.pause * 2).min(RETRY_DELAYS.1);
        }
    }

    /// Starts a new realm at every member that is up, and forms a new quorum of them.
    pub(super) async fn begin_anew(&self) -> Result<Realm> {
        let mut beginning = JoinSet::new();
        for store in self.members.iter().filter_map(|slot| slot.store.get().cloned()) {
            beginning.spawn(async move { store.new_realm().await });
        }
        let (mut begun, mut failed) = (0, Vec::new());
        while let Some(answer) = beginning.join_next().await {
            match answer.unwrap_or_else(|_| Err(interrupted())) {
                Ok(_) => begun += 1,
                Err(error) => failed.push(error),
            }
        }
        if begun < self.majority {
            return Err(too_few(begun, self.len(), &failed, Effect::Unknown));
        }
        self.convene(true).await?;
        let membership = self.membership();
        match &membership.roll {
            Some(_) => Ok(membership.realm.clone()),
            None => Err(Error::new(ErrorKind::Unavailable, Effect::Unknown, membership.why.clone())),
        }
    }

    /// Brings the members together: opens those that are not open, reads their records, and makes
    /// the pending decisions.
    async fn convene(&self, anew: bool) -> Result<()> {
        // A suspicion that arises from here on is examined by the next call.
        self.is_whole.store(true, Ordering::Release);
        let (present, mut troubles) = self.gather().await;
        if present.len() < self.majority {
            self.is_whole.store(false, Ordering::Release);
            let failed: Vec<_> = troubles.iter().flatten().cloned().collect();
            self.report(troubles);
            return Err(too_few(present.len(), self.len(), &failed, Effect::None));
        }
        let present = self.admit(present, &mut troubles)?;
        for member in &present {
            *locked(&self.members[member.at].seen) = Some(member.realm().clone());
        }
        let membership = if !self.has_tokens() {
            Membership::of(promises::realm(present.iter().map(|member| member.realm().clone())))
        } else if present.iter().all(|member| present::keeps(&*member.store).is_some()) {
            self.membership_by_roll(present, anew, &mut troubles).await
        } else {
            self.membership_by_presence(&present, &troubles)?
        };
        self.adopt(membership);
        if troubles.iter().any(Option::is_some) {
            self.is_whole.store(false, Ordering::Release);
        }
        self.report(troubles);
        Ok(())
    }

    /// Adopts a membership. A roll stays true: only a later one replaces it.
    fn adopt(&self, new: Membership) {
        let mut membership = locked(&self.membership);
        let stays = match (&membership.roll, &new.roll) {
            (Some(_), None) => true,
            (Some(old), Some(new)) => new.generation < old.generation,
            (None, _) => false,
        };
        if !stays {
            *membership = Arc::new(new);
        }
    }

    /// Admits the members that promise as much as the quorum. The first time, the quorum's
    /// guarantees are computed from the members that are present.
    fn admit(&self, present: Vec<PresentMember>, troubles: &mut [Option<Error>]) -> Result<Vec<PresentMember>> {
        let present = self.without_twins(present, troubles)?;
        let promised = match self.guarantees.get() {
            Some(promised) => *promised,
            None => {
                let stores: Vec<_> = present.iter().map(|member| (member.at, &*member.store)).collect();
                let promised = promises::of(&stores, self.len())?;
                *self.guarantees.get_or_init(|| promised)
            }
        };
        let mut admitted = Vec::with_capacity(present.len());
        for member in present {
            let slot = &self.members[member.at];
            match promises::suffice(member.at, &*member.store, &promised) {
                Ok(()) => {
                    slot.store.get_or_init(|| member.store.clone());
                    admitted.push(member);
                }
                Err(error) => troubles[member.at] = Some(explained(&self.describe(member.at), &error)),
            }
        }
        Ok(admitted)
    }

    /// Refuses two members that are the same store. Once the quorum is open, the later one takes no
    /// part.
    fn without_twins(&self, present: Vec<PresentMember>, troubles: &mut [Option<Error>]) -> Result<Vec<PresentMember>> {
        let mut different: Vec<PresentMember> = Vec::with_capacity(present.len());
        let is_open = |member: &PresentMember| self.members[member.at].store.get().is_some();
        let (open, new): (Vec<_>, Vec<_>) = present.into_iter().partition(is_open);
        for member in open.into_iter().chain(new) {
            let Some(twin) = different.iter().find(|twin| twin.realm() == member.realm()) else {
                different.push(member);
                continue;
            };
            let text = format!(
                "{} and {} of the quorum are the same store: {}",
                self.describe(twin.at),
                self.describe(member.at),
                member.realm()
            );
            let error = Error::invalid_config(text);
            if self.guarantees.get().is_none() {
                return Err(error);
            }
            troubles[member.at] = Some(error);
        }
        different.sort_unstable_by_key(|member| member.at);
        Ok(different)
    }

    /// If members keep no roll, all of them must be known, so that any two majorities share a
    /// member.
    fn membership_by_presence(&self, present: &[PresentMember], troubles: &[Option<Error>]) -> Result<Membership> {
        if present.len() < self.len() {
            let missing: Vec<_> = troubles.iter().flatten().map(ToString::to_string).collect();
            let text = format!(
                "all {} members must be there when this quorum is opened, since not all of them can keep who belongs to \
                 it: {}",
                self.len(),
                missing.join("; ")
            );
            return Err(Error::refused(ErrorKind::Unavailable, text));
        }
        let places: Vec<_> = present.iter().map(|member| member.store.realm()).collect();
        let realm = promises::realm(places.iter().cloned());
        let roll = Roll { generation: 0, realm, of: self.len(), founders: places.len(), places };
        Ok(Membership::by(roll))
    }

    async fn membership_by_roll(
        &self,
        present: Vec<PresentMember>,
        anew: bool,
        troubles: &mut [Option<Error>],
    ) -> Membership {
        let is_durable = self.guarantees().tokens_survive.is_some_and(|faults| faults.contains(Fault::Crash.into()));
        let decisions = Decisions { members: self.len(), is_durable };
        let (present, state) = decisions.decide_all(present, anew).await;
        let Some(roll) = state.stands else {
            let has_place = |member: &&PresentMember| rolls(&present).any(|roll| roll.has(member.realm()));
            let placed = present.iter().filter(has_place).count();
            let missing = present.iter().filter(|member| !has_place(member)).map(|member| {
                let joins = member.record.roll.is_none() && rolls(&present).any(|roll| roll.free() > 0);
                let why = match joins {
                    true => "joins when a majority of those who formed it answers",
                    false => "has other data than those that have a place in it",
                };
                format!("{} {why}", self.describe(member.at))
            });
            let missing: Vec<_> = troubles.iter().flatten().map(ToString::to_string).chain(missing).collect();
            let other = rolls(&present).find(|roll| roll.of != self.len()).map(|roll| roll.of);
            let why = match other {
                Some(of) => format!("the quorum was formed of {of} members, and is opened with {}", self.len()),
                None => format!(
                    "{placed} members of the quorum that was formed answered, and {} must: {}",
                    self.majority,
                    missing.join("; ")
                ),
            };
            let way = "if they will not come back as they were, an operator has to begin a new realm";
            for member in &present {
                troubles[member.at].get_or_insert_with(|| Error::refused(ErrorKind::Unavailable, why.clone()));
            }
            return Membership::none(format!("{why}; {way}"));
        };
        for member in present.iter().filter(|member| !roll.has(member.realm())) {
            let why = if member.record.generation() >= roll.generation {
                "it belongs to another quorum"
            } else if roll.free() > 0 {
                "it has no place yet: it joins when a majority of those who formed the quorum answers"
            } else {
                "its data are not those that have a place in the quorum: they were lost, or it was exchanged, and an \
                 operator has to begin a new realm before it has one"
            };
            let text = format!("{} has no vote: {why}", self.describe(member.at));
            troubles[member.at] = Some(Error::refused(ErrorKind::Unavailable, text));
        }
        Membership::by(roll)
    }

    /// Stores the reasons why members take no part, and logs the changes.
    fn report(&self, troubles: Vec<Option<Error>>) {
        for (at, trouble) in troubles.into_iter().enumerate() {
            let mut known = locked(&self.members[at].trouble);
            let text = |error: &Option<Error>| error.as_ref().map(ToString::to_string);
            match (text(&known), text(&trouble)) {
                (before, Some(now)) if before.as_ref() != Some(&now) => {
                    tracing::warn!(target: "leasehold", store = "quorum", "{now}");
                }
                (Some(_), None) => {
                    tracing::info!(target: "leasehold", store = "quorum", "{} takes part now", self.describe(at));
                }
                _ => {}
            }
            *known = trouble;
        }
    }
}

impl fmt::Debug for Roster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.members.iter().map(|slot| &slot.member)).finish()
    }
}
