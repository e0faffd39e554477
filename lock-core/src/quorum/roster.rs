//! [`Roster`]: the members of a quorum, as one process knows them.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::forming::{FormingState, Next, majority};
use super::member::Member;
use super::present::{self, PresentMember};
use super::promises;
use super::record::Record;
use super::roll::Roll;
use crate::sync::locked;
use crate::{Effect, Error, ErrorKind, Fault, Guarantees, LockStore, Realm, Result, runtime};

/// The members of a quorum, as one process knows them: which of them are open, and by which roll the quorum stands.
///
/// A member that is away, or has no place, is tried again when the quorum is used: in the background, ever more rarely.
pub(super) struct Roster {
    members: Vec<Slot>,
    pub(super) majority: usize,
    guarantees: OnceLock<Guarantees>,
    membership: Mutex<Arc<Membership>>,
    /// Whether every member takes part, so that there is nothing to try.
    is_whole: AtomicBool,
    trying: Mutex<Retry>,
}

struct Slot {
    member: Member,
    /// Set once: a store connects again by itself.
    store: OnceLock<Arc<dyn LockStore>>,
    /// The realm of its data, when it was last looked at.
    seen: Mutex<Option<Realm>>,
    /// Why it takes no part, if it does not.
    trouble: Mutex<Option<Error>>,
}

/// By what a quorum stands.
#[derive(Debug)]
pub(super) struct Membership {
    /// `None` where too few of those who have a place answer, or there are no tokens that it would matter for.
    pub(super) roll: Option<Roll>,
    pub(super) realm: Realm,
    /// Why there is no roll.
    why: String,
}

struct Retry {
    now: bool,
    next: Option<Instant>,
    pause: Duration,
}

/// In which time a majority has to answer when a quorum is opened: less than the core allows for connecting, whose error
/// would not say who is missing.
const OPEN_TIMEOUT: Duration = Duration::from_secs(4);
/// How long the others have when a majority has answered; as long as that took, if it was longer.
const STRAGGLER_TIMEOUT: Duration = Duration::from_millis(250);
/// The same if the quorum has yet to be formed: who misses that has to join.
const FORMING_STRAGGLER_TIMEOUT: Duration = Duration::from_secs(1);
/// How long to wait between two tries.
const RETRY_DELAYS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// So often is a decision tried at one go.
const MAX_ROUNDS: u32 = 12;

impl Roster {
    /// Opens a majority of these members at least.
    pub(super) async fn open(members: Vec<Member>) -> Result<Arc<Roster>> {
        if members.is_empty() {
            return Err(Error::refused(ErrorKind::InvalidConfig, "a quorum needs members"));
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

    /// The store of a member, or why there is none.
    pub(super) fn store(&self, at: usize) -> Result<Arc<dyn LockStore>> {
        self.members[at].store.get().cloned().ok_or_else(|| {
            let trouble = locked(&self.members[at].trouble).clone();
            trouble.unwrap_or_else(|| Error::refused(ErrorKind::Unavailable, format!("{} is away", self.describe(at))))
        })
    }

    pub(super) fn describe(&self, at: usize) -> String {
        self.members[at].member.called(at)
    }

    /// Hears of a vote that counts for nothing, by a member whose data are of this realm: if that is news, it is looked
    /// into soon.
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

    /// Tries again what could not be done, where it is time for that.
    pub(super) fn maintain(self: &Arc<Self>) {
        if self.is_whole.load(Ordering::Acquire) {
            return;
        }
        let mut trying = locked(&self.trying);
        if trying.now || trying.next.is_some_and(|next| Instant::now() < next) {
            return;
        }
        // Without a thread for it, a later call tries again.
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

    /// Sets when to try again.
    fn retry_ended(&self) {
        let mut trying = locked(&self.trying);
        trying.now = false;
        if self.is_whole.load(Ordering::Acquire) {
            (trying.next, trying.pause) = (None, RETRY_DELAYS.0);
        } else {
            trying.next = Some(Instant::now() + super::random_between(trying.pause / 2, trying.pause));
            trying.pause = (trying.pause * 2).min(RETRY_DELAYS.1);
        }
    }

    /// Begins a new realm at every member that is there, and forms a new quorum of them.
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
        let standing = self.membership();
        match &standing.roll {
            Some(_) => Ok(standing.realm.clone()),
            None => Err(Error::new(ErrorKind::Unavailable, Effect::Unknown, standing.why.clone())),
        }
    }

    /// Brings the members together: opens those that are not, reads who has a place, decides what has to be decided.
    async fn convene(&self, anew: bool) -> Result<()> {
        // What is doubted from here on is looked into by the next.
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
        let standing = if !self.has_tokens() {
            Membership::of(promises::realm(present.iter().map(|member| member.realm().clone())))
        } else if present.iter().all(|member| present::keeps(&*member.store).is_some()) {
            self.membership_by_roll(present, anew, &mut troubles).await
        } else {
            self.membership_by_presence(&present, &troubles)?
        };
        self.adopt(standing);
        if troubles.iter().any(Option::is_some) {
            self.is_whole.store(false, Ordering::Release);
        }
        self.report(troubles);
        Ok(())
    }

    /// Stands by this from now on. What was true of a roll stays true: a later one replaces it, and nothing else does.
    fn adopt(&self, new: Membership) {
        let mut standing = locked(&self.membership);
        let stays = match (&standing.roll, &new.roll) {
            (Some(_), None) => true,
            (Some(old), Some(new)) => new.generation < old.generation,
            (None, _) => false,
        };
        if !stays {
            *standing = Arc::new(new);
        }
    }

    /// Those that answer, in their order, and why the others do not.
    async fn gather(&self) -> (Vec<PresentMember>, Vec<Option<Error>>) {
        let mut asked = JoinSet::new();
        for (at, slot) in self.members.iter().enumerate() {
            let (open, member, called) = (slot.store.get().cloned(), slot.member.clone(), self.describe(at));
            asked.spawn(async move {
                let answer = async {
                    let store = match open {
                        Some(store) => store,
                        None => member.open().await?,
                    };
                    PresentMember::ask(at, store).await
                };
                (at, answer.await.map_err(|error| explained(&called, &error)))
            });
        }
        let started = Instant::now();
        let mut until = started + OPEN_TIMEOUT;
        let mut present: Vec<PresentMember> = Vec::new();
        let mut troubles: Vec<_> = (0..self.len())
            .map(|at| {
                let text = format!("{} has not answered", self.describe(at));
                Some(Error::new(ErrorKind::TimedOut, Effect::None, text))
            })
            .collect();
        while let Ok(Some(answer)) = tokio::time::timeout_at(until, asked.join_next()).await {
            match answer {
                Ok((at, Ok(member))) => {
                    troubles[at] = None;
                    present.push(member);
                    if present.len() == self.majority {
                        let formed = present.iter().any(|member| member.record.roll.is_some());
                        let grace = if formed { STRAGGLER_TIMEOUT } else { FORMING_STRAGGLER_TIMEOUT };
                        until = until.min(Instant::now() + grace.max(started.elapsed()));
                    }
                }
                Ok((at, Err(error))) => troubles[at] = Some(error),
                Err(_) => {}
            }
        }
        present.sort_unstable_by_key(|member| member.at);
        (present, troubles)
    }

    /// Lets those take part that promise what the quorum does; the first time they are what it promises.
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

    /// Refuses two members that are one; once the quorum is open, the one that comes later takes no part.
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
            let error = Error::refused(ErrorKind::InvalidConfig, text);
            if self.guarantees.get().is_none() {
                return Err(error);
            }
            troubles[member.at] = Some(error);
        }
        different.sort_unstable_by_key(|member| member.at);
        Ok(different)
    }

    /// Where members keep no roll, each has to know all of them to know that no two majorities miss each other.
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
        let (present, judged) = self.decide_all(present, anew).await;
        let Some(roll) = judged.stands else {
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

    /// Decides what has to be decided, as far as it can be now; gives what the members make of it in the end.
    async fn decide_all(&self, mut present: Vec<PresentMember>, anew: bool) -> (Vec<PresentMember>, FormingState) {
        let lasting = self.guarantees().tokens_survive.is_some_and(|faults| faults.contains(Fault::Crash.into()));
        let latest =
            |present: &[PresentMember]| present.iter().map(|member| member.record.generation()).max().unwrap_or(0);
        let before = latest(&present);
        for round in 0..MAX_ROUNDS {
            let mut judged = self.classify(&present, lasting);
            if anew && judged.stands.as_ref().is_none_or(|roll| roll.generation <= before) {
                judged = FormingState { stands: None, next: Some(Next::Form(latest(&present) + 1)) };
            }
            let Some(next) = judged.next.clone() else {
                present = match &judged.stands {
                    Some(roll) => self.distribute(present, roll).await,
                    None => present,
                };
                return (present, judged);
            };
            let roll;
            (present, roll) = self.decide(present, &next).await;
            match roll {
                Some(roll) => present = self.distribute(present, &roll).await,
                // It stands, and the others who are at it may go on.
                None if judged.stands.is_some() && round >= 2 => break,
                None => {
                    let longest = Duration::from_millis(10) * (round + 1);
                    tokio::time::sleep(super::random_between(Duration::from_millis(1), longest)).await;
                    present = refreshed(present).await;
                }
            }
        }
        let judged = self.classify(&present, lasting);
        (present, judged)
    }

    fn classify(&self, present: &[PresentMember], lasting: bool) -> FormingState {
        if rolls(present).any(|roll| roll.of != self.len()) {
            return FormingState::default();
        }
        let members: Vec<_> = present.iter().map(|member| (member.realm(), &member.record)).collect();
        FormingState::of(self.len(), &members, lasting)
    }

    /// Decides one thing, as in Paxos: a majority promises, and accepts; `None` if it does not.
    async fn decide(&self, present: Vec<PresentMember>, next: &Next) -> (Vec<PresentMember>, Option<Roll>) {
        let proposal = Record::propose(present.iter().map(|member| &member.record));
        let asked: Vec<_> = present.iter().filter(|member| next.asks(member.realm())).map(|member| member.at).collect();
        let (present, promised) = {
            let (next, proposal) = (next.clone(), proposal.clone());
            changed(present, &asked, move |record| next.part(record).is_some_and(|part| part.promise(&proposal))).await
        };
        if !next.is_decided_by(self.len(), promised.len()) {
            return (present, None);
        }
        let those = present.iter().filter(|member| promised.contains(&member.at));
        let those: Vec<_> = those.map(|member| (member.realm(), &member.record)).collect();
        let roll = next.roll(self.len(), &those);
        let (present, accepted) = {
            let (next, roll) = (next.clone(), roll.clone());
            let accept = move |record: &mut Record| next.part(record).is_some_and(|part| part.accept(&proposal, &roll));
            changed(present, &promised, accept).await
        };
        let decided = next.is_decided_by(self.len(), accepted.len());
        (present, decided.then_some(roll))
    }

    /// Tells those who have a place in this roll of it.
    async fn distribute(&self, present: Vec<PresentMember>, roll: &Roll) -> Vec<PresentMember> {
        let told: Vec<_> = present.iter().filter(|member| roll.has(member.realm())).map(|member| member.at).collect();
        let roll = roll.clone();
        let learn = move |record: &mut Record| {
            record.learn(&roll);
            true
        };
        changed(present, &told, learn).await.0
    }

    /// Keeps why members take no part, and tells people of what changed.
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

impl Membership {
    fn none(why: String) -> Membership {
        Membership { roll: None, realm: Realm::new("quorum:none"), why }
    }

    fn of(realm: Realm) -> Membership {
        Membership { roll: None, realm, why: String::new() }
    }

    fn by(roll: Roll) -> Membership {
        Membership { realm: roll.realm.clone(), roll: Some(roll), why: String::new() }
    }

    /// Why nothing can be granted with tokens.
    pub(super) fn refusal(&self) -> Error {
        Error::refused(ErrorKind::Unavailable, self.why.clone())
    }
}

/// The rolls that these were told of.
fn rolls(present: &[PresentMember]) -> impl Iterator<Item = &Roll> {
    present.iter().filter_map(|member| member.record.roll.as_ref())
}

/// Changes the records of those at these places; gives all of them, and at which the change was made.
async fn changed(
    present: Vec<PresentMember>,
    which: &[usize],
    change: impl Fn(&mut Record) -> bool + Clone + Send + Sync + 'static,
) -> (Vec<PresentMember>, Vec<usize>) {
    let (asked, mut all): (Vec<_>, Vec<_>) = present.into_iter().partition(|member| which.contains(&member.at));
    let mut changing = JoinSet::new();
    for member in asked {
        let change = change.clone();
        changing.spawn(async move {
            let mut changed = member.clone();
            let made = changed.change(change).await;
            (changed, made)
        });
    }
    let mut done = Vec::new();
    while let Some(answer) = changing.join_next().await {
        let Ok((member, made)) = answer else { continue };
        match made {
            Ok(true) => done.push(member.at),
            Ok(false) => {}
            Err(error) => {
                tracing::debug!(target: "leasehold", store = "quorum", member = member.at + 1, %error, "no part in a decision");
            }
        }
        all.push(member);
    }
    all.sort_unstable_by_key(|member| member.at);
    (all, done)
}

/// What they keep now; of one that does not answer, what it kept.
async fn refreshed(present: Vec<PresentMember>) -> Vec<PresentMember> {
    let mut asking = JoinSet::new();
    for member in present {
        asking.spawn(async move { PresentMember::ask(member.at, member.store.clone()).await.unwrap_or(member) });
    }
    let mut all = Vec::new();
    while let Some(member) = asking.join_next().await {
        all.extend(member.ok());
    }
    all.sort_unstable_by_key(|member| member.at);
    all
}

fn explained(called: &str, error: &Error) -> Error {
    let effect = if error.may_have_taken_effect() { Effect::Unknown } else { Effect::None };
    Error::new(error.kind(), effect, format!("{called}: {error}")).with_source(error.clone())
}

fn interrupted() -> Error {
    Error::new(ErrorKind::Unavailable, Effect::Unknown, "a call to a member of the quorum was cut off")
}

/// The error of a step for which too few members were there.
pub(super) fn too_few(there: usize, of: usize, failed: &[Error], effect: Effect) -> Error {
    let kinds: Vec<_> = failed.iter().map(Error::kind).collect();
    let kind = match kinds.split_first() {
        Some((first, rest)) if rest.iter().all(|kind| kind == first) => *first,
        _ => ErrorKind::Unavailable,
    };
    let text = format!("{there} of {of} members answered, and {} must", majority(of));
    match failed.first() {
        Some(first) => {
            let each: Vec<_> = failed.iter().map(ToString::to_string).collect();
            Error::new(kind, effect, format!("{text}: {}", each.join("; "))).with_source(first.clone())
        }
        None => Error::new(kind, effect, text),
    }
}

impl fmt::Debug for Roster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.members.iter().map(|slot| &slot.member)).finish()
    }
}
