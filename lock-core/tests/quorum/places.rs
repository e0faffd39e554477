//! Places in a quorum: members that are down when it is opened or formed, that lose their data,
//! that come back.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use lock_conformance::Random;
use lock_conformance::faults::Mix;

use super::*;

/// A member that promises to keep its tokens, and may be down.
#[derive(Clone)]
struct Lasting {
    memory: MemoryStore,
    is_up: Arc<AtomicBool>,
    /// True if opening it while it is down hangs.
    hangs: Arc<AtomicBool>,
    promised: Guarantees,
}

fn durable() -> Guarantees {
    let survived = Faults::of(&[Fault::Crash, Fault::PowerLoss]);
    Guarantees::NONE
        .records_survive(survived)
        .tokens_survive(survived)
        .expiry(Expiry::Ttl(ClockKind::BootTime))
        .waiting(WaitStyle::Queued)
}

impl Lasting {
    fn new(clock: &Clock) -> Lasting {
        let (is_up, hangs) = (Arc::new(AtomicBool::new(true)), Arc::default());
        Lasting { memory: MemoryStore::with_clock(clock.clone()), is_up, hangs, promised: durable() }
    }

    fn store(&self) -> Promising {
        Promising::new(self.memory.clone(), self.promised)
    }

    /// The member, over a link of the caller's own. It can be opened only while it is up.
    fn linked(&self, at: usize) -> (Member, Arc<Faulty>) {
        let (of, link) = (self.clone(), Faulty::new(Arc::new(self.store())));
        let opened = link.clone();
        let open = move || {
            let (of, opened) = (of.clone(), opened.clone());
            async move {
                if !of.is_up.load(Ordering::SeqCst) {
                    if of.hangs.load(Ordering::SeqCst) {
                        std::future::pending::<()>().await;
                    }
                    return Err(Error::refused(ErrorKind::Unavailable, "it is down"));
                }
                Ok(opened as Arc<dyn LockStore>)
            }
        };
        (Member::opened_by(format!("m{}", at + 1), open), link)
    }
}

/// The members of one test, in paused time.
struct Place {
    clock: Clock,
    members: Vec<Lasting>,
}

impl Place {
    fn of(members: usize) -> Place {
        let (clock, _) = Clock::for_tests();
        Place { members: (0..members).map(|_| Lasting::new(&clock)).collect(), clock }
    }

    /// Makes these members up, and all others down.
    fn up(&self, up: &[usize]) {
        for (at, member) in self.members.iter().enumerate() {
            member.is_up.store(up.contains(&at), Ordering::SeqCst);
        }
    }

    async fn open(&self) -> Result<Quorum> {
        Ok(self.open_linked().await?.0)
    }

    async fn open_linked(&self) -> Result<(Quorum, Vec<Arc<Faulty>>)> {
        let (members, links): (Vec<_>, _) = self.members.iter().enumerate().map(|(at, of)| of.linked(at)).unzip();
        Ok((Quorum::open(members).await?.member_timeout(LIMIT), links))
    }

    fn locks(&self, quorum: Quorum) -> Locks {
        Locks::builder_of(Arc::new(quorum)).clock(self.clock.clone()).ttl(10 * SECOND).build()
    }
}

async fn next_token(quorum: &Quorum) -> Result<FencingToken> {
    next_token_of(quorum, &claim()).await
}

async fn next_token_of(quorum: &Quorum, claim: &Claim) -> Result<FencingToken> {
    let attempt = quorum.request(claim).await?;
    let Attempt::Granted(lease) = attempt else { panic!("nobody holds it: {attempt:?}") };
    quorum.release(claim, Duration::ZERO).await?;
    tokio::time::sleep(2 * LIMIT).await;
    Ok(lease.token.unwrap())
}

fn subsets(of: usize) -> impl Iterator<Item = Vec<usize>> {
    (0..1_usize << of).map(move |bits| (0..of).filter(|at| bits & (1 << at) != 0).collect())
}

#[tokio::test(start_paused = true)]
async fn a_quorum_that_was_formed_is_opened_by_any_majority_in_the_same_realm_and_by_no_fewer() {
    let place = Place::of(5);
    let mut last = next_token(&place.open().await.unwrap()).await.unwrap();
    for up in subsets(5) {
        place.up(&up);
        match place.open().await {
            Ok(quorum) => {
                assert!(up.len() >= 3, "opened by {up:?}");
                let token = next_token(&quorum).await.unwrap();
                assert!(token > last, "{token} after {last}, by {up:?}");
                last = token;
            }
            Err(error) => {
                assert!(up.len() < 3 && error.kind() == ErrorKind::Unavailable, "{up:?}: {error}");
                let text = error.to_string();
                assert!(text.starts_with(&format!("{} of 5 members answered, and 3 must: ", up.len())), "{text}");
                for at in 0..5 {
                    let named = text.contains(&format!("member {} (m{}): it is down", at + 1, at + 1));
                    assert_eq!(named, !up.contains(&at), "{up:?}: {text}");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_quorum_is_formed_by_any_majority_and_who_missed_it_joins_at_the_next_opening() {
    for missing in subsets(5).filter(|missing| (1..=2).contains(&missing.len())) {
        let place = Place::of(5);
        let present: Vec<_> = (0..5).filter(|at| !missing.contains(at)).collect();
        place.up(&present);
        let formed = next_token(&place.open().await.unwrap()).await.unwrap();
        // One of the founders may be lost permanently by now.
        let back: Vec<_> = present[1..].iter().chain(&missing).copied().collect();
        place.up(&back);
        let joined = next_token(&place.open().await.unwrap()).await.unwrap();
        assert!(joined > formed, "{joined} after {formed}, when {missing:?} had missed the forming");
        // Now they are members like all others.
        let few: Vec<_> = missing.iter().chain(&present).take(3).copied().collect();
        place.up(&few);
        let later = next_token(&place.open().await.unwrap()).await.unwrap();
        assert!(later > joined, "{later} after {joined}, by {few:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_that_was_away_joins_a_quorum_that_is_open_by_itself() {
    let place = Place::of(5);
    place.up(&[0, 1, 2]);
    let (quorum, links) = place.open_linked().await.unwrap();
    let first = next_token(&quorum).await.unwrap();
    place.up(&[0, 1, 2, 3, 4]);
    let locks = place.locks(quorum);
    let guard = locks.lock("other").acquire().await.unwrap();
    // The quorum is used, at least by renewals, so the members are retried within half a minute.
    tokio::time::sleep(40 * SECOND).await;
    assert!(links[3].calls(Call::Renew) > 0 && links[4].calls(Call::Renew) > 0, "they were not asked");
    guard.check().unwrap();
    for link in &links[..2] {
        ALL.iter().for_each(|op| link.always(*op, Disturbance::Fail));
    }
    let guard = locks.lock("job").wait(SECOND).acquire().await.unwrap();
    assert!(guard.token_if_any().unwrap() > &first);
}

#[tokio::test(start_paused = true)]
async fn who_forms_a_quorum_at_the_same_time_by_other_members_forms_the_same() {
    for seed in 0..60 {
        let place = Place::of(5);
        let mut random = Random::new(seed);
        let mut opening = tokio::task::JoinSet::new();
        for client in 0..3 {
            // Each client reaches three or four members, over links on which calls are late, lost
            // and repeated. In the end it reaches all: a client that reaches too few of the
            // founders gets no token, however often it retries.
            const AWAY_FOR: usize = 8;
            let mix = Mix::new(20, SECOND / 2);
            let away = [random.below(5) as usize, random.below(5) as usize];
            let members = place.members.iter().enumerate().map(|(at, of)| {
                let link = Faulty::random(Arc::new(of.store()), random.next_u64(), mix);
                let is_away = away.contains(&at);
                let tries = AtomicUsize::new(0);
                Member::opened_by("m", move || {
                    let link = link.clone() as Arc<dyn LockStore>;
                    let away = Error::refused(ErrorKind::Unavailable, "it is away");
                    let is_away = is_away && tries.fetch_add(1, Ordering::SeqCst) < AWAY_FOR;
                    async move { if is_away { Err(away) } else { Ok(link) } }
                })
            });
            let members: Vec<_> = members.collect();
            opening.spawn(async move {
                for attempt in 0.. {
                    let Ok(quorum) = Quorum::open(members.clone()).await else { continue };
                    let claim = Claim::new(LockName::new(format!("job/{client}/{attempt}")).unwrap(), 10 * SECOND);
                    if let Ok(token) = next_token_of(&quorum, &claim).await {
                        return token;
                    }
                }
                unreachable!("it goes on until it has one")
            });
        }
        let tokens = opening.join_all().await;
        assert!(tokens.windows(2).all(|two| two[0].realm() == two[1].realm()), "seed {seed}: {tokens:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_that_lost_its_data_has_no_vote_until_a_new_realm_is_begun() {
    let place = Place::of(3);
    let before = next_token(&place.open().await.unwrap()).await.unwrap();
    place.members[2].memory.forget();
    let long = Quorum::DEFAULT_LONGEST_TTL + SECOND;
    tokio::time::sleep(long).await;
    // With one member that remembers it is no majority, however long ago that was.
    place.up(&[0, 2]);
    let quorum = place.open().await.unwrap();
    for _ in 0..3 {
        let error = next_token(&quorum).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let text = error.to_string();
        assert!(text.contains("member 3 (m3) has other data") && text.contains("member 2 (m2)"), "{text}");
        tokio::time::sleep(long).await;
    }
    // With the two that remember, it is.
    place.up(&[0, 1, 2]);
    let quorum = place.open().await.unwrap();
    let between = next_token(&quorum).await.unwrap();
    assert!(between > before);
    // Running processes learn the new realm.
    let running = place.open().await.unwrap();
    let realm = quorum.new_realm().await.unwrap();
    assert!(realm != *before.realm() && quorum.realm() == realm);
    let wanted = tokio::time::Instant::now() + 5 * SECOND;
    while next_token(&running).await.is_ok_and(|token| *token.realm() != realm) || running.realm() != realm {
        assert!(tokio::time::Instant::now() < wanted, "it is still of {}", running.realm());
        tokio::time::sleep(LIMIT).await;
    }
    place.up(&[1, 2]);
    let after = next_token(&place.open().await.unwrap()).await.unwrap();
    assert_eq!((after.realm(), after.partial_cmp(&between)), (&realm, None));
}

/// A minority of the members comes, goes and loses its data; processes open the quorum at any
/// moment and continue to use it.
#[tokio::test(start_paused = true)]
async fn tokens_of_one_realm_rise_whoever_is_away_and_whatever_a_minority_forgets() {
    for seed in 0..20 {
        let place = Place::of(5);
        let mut random = Random::new(seed);
        let (mut open, mut last) = (Vec::new(), HashMap::<Realm, u64>::new());
        let mut forgot = Vec::new();
        for step in 0..16 {
            let up: Vec<_> = (0..5).filter(|_| random.below(10) < 7).collect();
            place.up(&up);
            if random.below(8) == 0 && forgot.len() < 2 {
                let at = random.below(5) as usize;
                place.members[at].memory.forget();
                forgot.push(at);
            }
            if let Ok(opened) = place.open_linked().await {
                open.push(opened);
            }
            for (quorum, links) in &open {
                for (at, link) in links.iter().enumerate() {
                    link.heal();
                    if !up.contains(&at) {
                        ALL.iter().chain(&[Call::Record]).for_each(|op| link.always(*op, Disturbance::Fail));
                    }
                }
                if let Ok(token) = next_token(quorum).await {
                    let last = last.entry(token.realm().clone()).or_default();
                    assert!(token.number() > *last, "seed {seed}, step {step}: {token} after {last}");
                    *last = token.number();
                }
            }
            // A lease that could not be given back ends.
            tokio::time::sleep(11 * SECOND).await;
        }
        assert!(last.values().sum::<u64>() > 5, "seed {seed}: hardly anything was granted");
    }
}

#[tokio::test(start_paused = true)]
async fn members_that_do_not_answer_are_waited_for_no_longer_than_they_may_be() {
    let place = Place::of(5);
    place.members.iter().for_each(|member| member.hangs.store(true, Ordering::SeqCst));
    let started = tokio::time::Instant::now();
    place.open().await.unwrap();
    assert_eq!(started.elapsed(), Duration::ZERO, "all were there");
    place.up(&[1, 2, 4]);
    place.open().await.unwrap();
    assert!(started.elapsed() < SECOND, "a formed quorum was opened in {:?}", started.elapsed());
    place.up(&[1, 2]);
    let error = place.open().await.unwrap_err();
    assert!(started.elapsed() < 5 * SECOND, "refused after {:?}", started.elapsed());
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    let text = error.to_string();
    assert!(text.contains("2 of 5 members answered") && text.contains("member 4 (m4) has not answered"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_member_that_promises_less_has_no_vote_where_the_others_were_relied_on() {
    let mut place = Place::of(3);
    place.open().await.unwrap();
    place.members[2].promised = durable().tokens_survive(Faults::NONE);
    place.up(&[0, 1]);
    let (quorum, links) = place.open_linked().await.unwrap();
    place.up(&[0, 1, 2]);
    for _ in 0..20 {
        next_token(&quorum).await.unwrap();
        tokio::time::sleep(5 * SECOND).await;
    }
    assert_eq!(links[2].calls(Call::Request), 0);
    assert_eq!(quorum.guarantees(), place.open_without(2).await.guarantees());
    // Opening the quorum with that member gives weaker guarantees.
    assert!(!place.open().await.unwrap().guarantees().tokens_survive.unwrap().contains(Fault::Crash.into()));
}

impl Place {
    async fn open_without(&self, without: usize) -> Quorum {
        self.members[without].is_up.store(false, Ordering::SeqCst);
        let opened = self.open().await;
        self.members[without].is_up.store(true, Ordering::SeqCst);
        opened.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_quorum_of_another_number_of_members_is_refused_until_a_new_realm_is_begun() {
    let mut place = Place::of(3);
    let before = place.open().await.unwrap().realm();
    let clock = place.clock.clone();
    place.members.extend((0..2).map(|_| Lasting::new(&clock)));
    let quorum = place.open().await.unwrap();
    let error = next_token(&quorum).await.unwrap_err();
    assert!(error.to_string().contains("formed of 3 members, and is opened with 5"), "{error}");
    assert_ne!(quorum.new_realm().await.unwrap(), before);
    next_token(&quorum).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn members_that_keep_no_roll_must_all_be_there_and_their_realm_is_made_of_theirs() {
    let (clock, _) = Clock::for_tests();
    let stores: Vec<_> = (0..3).map(|_| MemoryStore::with_clock(clock.clone())).collect();
    let is_down = Arc::new(Mutex::new(None::<usize>));
    let members = || {
        let member = |(at, store): (usize, &MemoryStore)| {
            let (store, is_down) = (store.clone(), is_down.clone());
            Member::opened_by(format!("m{}", at + 1), move || {
                let down = *is_down.lock().unwrap() == Some(at);
                let store = store.clone();
                async move {
                    match down {
                        true => Err(Error::refused(ErrorKind::Unavailable, "it is down")),
                        false => Ok(Arc::new(Promising::without_record(store)) as Arc<dyn LockStore>),
                    }
                }
            })
        };
        stores.iter().enumerate().map(member).collect::<Vec<_>>()
    };
    let quorum = Quorum::open(members()).await.unwrap();
    let token = next_token(&quorum).await.unwrap();
    *is_down.lock().unwrap() = Some(1);
    let error = Quorum::open(members()).await.unwrap_err();
    assert!(error.to_string().contains("all 3 members must be there") && error.to_string().contains("m2"), "{error}");
    *is_down.lock().unwrap() = None;
    let other = Quorum::open(members()).await.unwrap();
    assert_eq!(other.realm(), *token.realm());
    stores[0].forget();
    assert_ne!(Quorum::open(members()).await.unwrap().realm(), *token.realm());
    drop(clock);
}
