//! [`Lanes`]: requests and releases that come at the same time, sent together.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lock_core::runtime::{PerRuntime, background};
use lock_core::{Attempt, Claim, Error, ReleaseOutcome, Result};
use sqlx::Row as _;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;

use crate::error;
use crate::error::Failed;
use crate::grants::{Grants, Seen};
use crate::link::Link;
use crate::pool::Lent;
use crate::prune::Pruning;
use crate::row::to_micros;
use crate::sql::{OneOrMany, Sql};
use crate::statement::{Statement, Value};

/// Requests and releases that come at the same time, sent together: one statement for many costs the server, and a
/// network that takes long, far less than many statements.
///
/// As long as there is a connection, who comes is sent at once, alone. Who comes while all are in use is sent with all that
/// came meanwhile, as soon as one is free. What is sent belongs to a task: a caller that goes away cuts nothing off, and
/// one that does not look at its answer holds nobody up.
#[derive(Debug)]
pub(crate) struct Lanes {
    lanes: PerRuntime<Arc<Lane>>,
}

/// The lane of one runtime.
#[derive(Debug)]
struct Lane {
    link: Arc<Link>,
    sql: Arc<Sql>,
    grants: Arc<Grants>,
    pruning: Arc<Pruning>,
    channel: String,
    queue: Mutex<Queue>,
    /// Those that wait for rows that others have locked go one statement after the other.
    patience: Semaphore,
}

#[derive(Debug, Default)]
struct Queue {
    requests: VecDeque<Asked>,
    releases: VecDeque<Given>,
    /// Requests went last, and releases are next.
    requests_went: bool,
    /// The tasks that send what waits, each over one connection at a time.
    senders: usize,
    /// Until then no more of them: the last found no connection, and others have some.
    enough_until: Option<Instant>,
}

/// A claim, and who waits for what becomes of it. `None`: another transaction is at work on its row.
type Asked = (Claim, oneshot::Sender<Result<Option<Attempt>>>);
type Given = (Claim, oneshot::Sender<Result<ReleaseOutcome>>);

/// So many are sent with one statement.
const TOGETHER: usize = 128;
/// After a connection could not be had the others are used for so long before another is tried.
const ENOUGH: Duration = Duration::from_secs(1);

impl Lanes {
    pub(crate) fn new(link: &Arc<Link>, sql: &Arc<Sql>, grants: &Arc<Grants>, pruning: &Arc<Pruning>) -> Lanes {
        let (link, sql, grants, pruning) = (link.clone(), sql.clone(), grants.clone(), pruning.clone());
        let make = move || {
            Arc::new(Lane {
                channel: link.config().table.channel(),
                link: link.clone(),
                sql: sql.clone(),
                grants: grants.clone(),
                pruning: pruning.clone(),
                queue: Mutex::default(),
                patience: Semaphore::new(1),
            })
        };
        Lanes { lanes: PerRuntime::new(make) }
    }

    /// Asks for a lock; `None`: another transaction is at work on its row, or makes it.
    pub(crate) async fn request(&self, claim: &Claim) -> Result<Option<Attempt>> {
        let (answer, answered) = oneshot::channel();
        self.enter(|queue| queue.requests.push_back((claim.clone(), answer)))?;
        answered.await.unwrap_or_else(|_| Err(error::ending()))
    }

    /// Gives a lock back.
    pub(crate) async fn release(&self, claim: &Claim) -> Result<ReleaseOutcome> {
        let (answer, answered) = oneshot::channel();
        self.enter(|queue| queue.releases.push_back((claim.clone(), answer)))?;
        answered.await.unwrap_or_else(|_| Err(error::ending()))
    }

    /// Puts one into the queue, and sees to it that it is sent.
    fn enter(&self, put: impl FnOnce(&mut Queue)) -> Result<()> {
        let lane = self.lanes.get()?;
        let mut queue = lane.queue();
        put(&mut queue);
        let enough = queue.enough_until.is_some_and(|until| Instant::now() < until);
        if queue.senders >= lane.link.config().connections || (queue.senders > 0 && enough) {
            return Ok(());
        }
        queue.senders += 1;
        drop(queue);
        // What is spawned on a runtime that has ended is dropped here and now.
        let sender = Sender { lane: Arc::clone(&lane), has_ended: false };
        Handle::try_current().or_else(|_| background())?.spawn(sender.send());
        Ok(())
    }
}

/// A task that sends what waits.
struct Sender {
    lane: Arc<Lane>,
    has_ended: bool,
}

impl Sender {
    async fn send(mut self) {
        while !self.has_nothing_to_do() {
            let connection = match self.lane.link.steps() {
                Ok(pool) => pool.take().await,
                Err(error) => Err(error),
            };
            match connection {
                // Taken from the queue only now, so that all that came meanwhile goes along.
                Ok(connection) => self.lane.send_next(connection).await,
                Err(error) => {
                    self.has_ended = true;
                    return self.lane.without_connection(&error);
                }
            }
        }
    }

    /// Ends it, in the same moment, if nothing waits.
    fn has_nothing_to_do(&mut self) -> bool {
        let mut queue = self.lane.queue();
        if queue.requests.is_empty() && queue.releases.is_empty() {
            queue.senders -= 1;
            self.has_ended = true;
        }
        self.has_ended
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        // It ends with its runtime: nobody is left who could send what waits.
        let mut queue = self.lane.queue();
        queue.senders -= 1;
        let unsent = if queue.senders == 0 { queue.take_all() } else { Default::default() };
        drop(queue);
        drop(unsent);
    }
}

impl Queue {
    /// The next of those that wait: requests and releases in turn, those that came first.
    fn next(&mut self) -> Option<Together> {
        let (requests, releases) = (&mut self.requests, &mut self.releases);
        let (asked, given) = match self.requests_went {
            true => (Vec::new(), next_of(releases)),
            false => (next_of(requests), Vec::new()),
        };
        let (asked, given) = match (asked.is_empty() && given.is_empty(), self.requests_went) {
            (false, _) => (asked, given),
            (true, true) => (next_of(requests), given),
            (true, false) => (asked, next_of(releases)),
        };
        self.requests_went = !asked.is_empty();
        match (asked.is_empty(), given.is_empty()) {
            (false, _) => Some(Together::Requests(asked)),
            (true, false) => Some(Together::Releases(given)),
            (true, true) => None,
        }
    }

    fn take_all(&mut self) -> (VecDeque<Asked>, VecDeque<Given>) {
        (std::mem::take(&mut self.requests), std::mem::take(&mut self.releases))
    }
}

/// The first of these that still wait for an answer: nothing was sent for the others, and nothing is.
fn next_of<T>(queue: &mut VecDeque<(Claim, oneshot::Sender<T>)>) -> Vec<(Claim, oneshot::Sender<T>)> {
    let mut next = Vec::new();
    while next.len() < TOGETHER
        && let Some(one) = queue.pop_front()
    {
        if !one.1.is_closed() {
            next.push(one);
        }
    }
    next
}

/// What goes with one statement.
enum Together {
    Requests(Vec<Asked>),
    Releases(Vec<Given>),
}

impl Lane {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the next of those that wait.
    async fn send_next(self: &Arc<Self>, mut connection: Lent) {
        let next = self.queue().next();
        match next {
            None => {}
            Some(Together::Requests(asked)) => self.send_requests(&mut connection, asked).await,
            Some(Together::Releases(given)) => {
                let statement = if given.len() == 1 { &self.sql.release } else { &self.sql.release_many };
                let locked = self.send_releases(&mut connection, statement, given).await;
                if !locked.is_empty() {
                    tokio::spawn(self.clone().send_patiently(locked));
                }
            }
        }
    }

    /// A sender ends for want of a connection. If others have some, these do; else all that wait hear why.
    fn without_connection(&self, error: &Error) {
        let mut queue = self.queue();
        queue.senders -= 1;
        if queue.senders > 0 {
            queue.enough_until = Some(Instant::now() + ENOUGH);
            return;
        }
        let (asked, given) = queue.take_all();
        drop(queue);
        refuse(asked, error);
        refuse(given, error);
    }

    /// Asks for all of these.
    async fn send_requests(&self, connection: &mut Lent, asked: Vec<Asked>) {
        let missing = self.ask_for(connection, &self.sql.request, by_name(asked)).await;
        if missing.is_empty() {
            return;
        }
        let count = missing.len();
        let others = self.ask_for(connection, &self.sql.insert, missing).await;
        let added = count - others.len();
        // Another was faster, and there is a row now.
        others.into_iter().for_each(|alike| self.tell(alike, None));
        self.pruning.by_chance(connection, added).await;
    }

    /// Asks for each of these names, and tells what is seen there; gives those of which there is no row. Of those that ask
    /// for the same name only the first is sent: what is seen then is the answer to the others, which come right after it.
    async fn ask_for(&self, connection: &mut Lent, statement: &OneOrMany, all: Vec<Vec<Asked>>) -> Vec<Vec<Asked>> {
        let (mut parts, mut missing) = (vec![all], Vec::new());
        while let Some(mut part) = parts.pop() {
            let claims: Vec<_> = part.iter().map(|alike| alike[0].0.clone()).collect();
            match self.look_for(connection, statement, &claims).await {
                Ok(seen) => {
                    for (alike, seen) in part.into_iter().zip(seen) {
                        match seen {
                            Some(seen) => self.tell(alike, Some(&seen)),
                            None => missing.push(alike),
                        }
                    }
                }
                // It was undone: each half by itself.
                Err(failed) if failed.may_be_of_one && part.len() > 1 => {
                    let rest = part.split_off(part.len() / 2);
                    parts.extend([rest, part]);
                }
                Err(failed) => refuse(part.into_iter().flatten(), &failed.error),
            }
        }
        missing
    }

    fn tell(&self, alike: Vec<Asked>, seen: Option<&Seen>) {
        for (claim, answer) in alike {
            // Who does not listen any more was cut off, and is withdrawn by whoever cut it off.
            drop(answer.send(Ok(seen.and_then(|seen| self.grants.attempt(&claim, seen)))));
        }
    }

    /// What is seen of each of these names, of which no two are the same, after its claim was granted or not.
    async fn look_for(
        &self,
        connection: &mut Lent,
        statement: &OneOrMany,
        claims: &[Claim],
    ) -> Result<Vec<Option<Seen>>, Failed> {
        let (statement, values) = match claims {
            [one] => (&statement.one, asking_one(one)),
            many => (&statement.many, asking_many(many)),
        };
        let answer = connection.run(statement, &values).await?;
        let odd = || Failed::whole(error::odd(&answer.to, statement.doing));
        let mut all: Vec<_> = claims.iter().map(|_| None).collect();
        for row in &answer.rows {
            let seen = self.grants.read(&answer, row).ok_or_else(odd)?;
            *entry(row, &mut all).ok_or_else(odd)? = Some(seen);
        }
        Ok(all)
    }

    /// Gives all of these back; gives those whose rows another transaction has locked.
    async fn send_releases(&self, connection: &mut Lent, statement: &Statement, given: Vec<Given>) -> Vec<Given> {
        let (mut parts, mut locked) = (vec![given], Vec::new());
        while let Some(mut part) = parts.pop() {
            match self.give_back(connection, statement, &part).await {
                Ok(found) => {
                    for ((claim, answer), found) in part.into_iter().zip(found) {
                        match found {
                            Some(found) => drop(answer.send(found)),
                            None => locked.push((claim, answer)),
                        }
                    }
                }
                Err(failed) if failed.may_be_of_one && part.len() > 1 => {
                    let rest = part.split_off(part.len() / 2);
                    parts.extend([rest, part]);
                }
                Err(failed) => refuse(part, &failed.error),
            }
        }
        locked
    }

    /// What was found of each; `None`: its row is locked.
    async fn give_back(
        &self,
        connection: &mut Lent,
        statement: &Statement,
        given: &[Given],
    ) -> Result<Vec<Option<Result<ReleaseOutcome>>>, Failed> {
        let values = match given {
            [(claim, _)] if statement.sql == self.sql.release.sql => {
                vec![Value::text(claim.name()), Value::text(claim.holder()), Value::text(&self.channel)]
            }
            many => vec![
                Value::Texts(many.iter().map(|(claim, _)| claim.name().to_string()).collect()),
                Value::Texts(many.iter().map(|(claim, _)| claim.holder().to_string()).collect()),
                Value::text(&self.channel),
            ],
        };
        let answer = connection.run(statement, &values).await?;
        let odd = || Failed::whole(error::odd(&answer.to, statement.doing));
        // Nothing found, where it was asked for twice, may be what the first did.
        let not_held = || match answer.twice {
            true => Err(error::twice(&answer.to, statement.doing)),
            false => Ok(ReleaseOutcome::NotHeld),
        };
        let mut found: Vec<_> = given.iter().map(|_| Some(not_held())).collect();
        for row in &answer.rows {
            let held = row.try_get::<Option<bool>, _>("held").map_err(|_| odd())?;
            let is_locked = row.try_get::<bool, _>("locked").map_err(|_| odd())?;
            let found = entry(row, &mut found).ok_or_else(odd)?;
            match held {
                _ if is_locked => *found = None,
                Some(true) => *found = Some(Ok(ReleaseOutcome::Held)),
                Some(false) => *found = Some(Ok(ReleaseOutcome::NotHeld)),
                None => {}
            }
        }
        Ok(found)
    }

    /// Gives these back, waiting for those who have locked their rows.
    async fn send_patiently(self: Arc<Self>, locked: Vec<Given>) {
        // It is never closed.
        let _turn = self.patience.acquire().await;
        let connection = match self.link.steps() {
            Ok(pool) => pool.take().await,
            Err(error) => Err(error),
        };
        match connection {
            Ok(mut connection) => {
                self.send_releases(&mut connection, &self.sql.release_patiently, locked).await;
            }
            Err(error) => refuse(locked, &error),
        }
    }
}

/// Those that ask for the same name together, in the order in which they came.
fn by_name(asked: Vec<Asked>) -> Vec<Vec<Asked>> {
    let mut places = HashMap::new();
    let mut all: Vec<Vec<Asked>> = Vec::new();
    for one in asked {
        let place = *places.entry(one.0.name().clone()).or_insert(all.len());
        match all.get_mut(place) {
            Some(alike) => alike.push(one),
            None => all.push(vec![one]),
        }
    }
    all
}

/// The place of what this row is of.
fn entry<'a, T>(row: &sqlx::postgres::PgRow, all: &'a mut [T]) -> Option<&'a mut T> {
    let number: i64 = row.try_get("entry").ok()?;
    all.get_mut(usize::try_from(number.checked_sub(1)?).ok()?)
}

fn asking_one(claim: &Claim) -> Vec<Value> {
    vec![
        Value::text(claim.name()),
        Value::text(claim.holder()),
        Value::Number(to_micros(claim.ttl())),
        Value::Text(info(claim)),
    ]
}

fn asking_many(claims: &[Claim]) -> Vec<Value> {
    let texts = |text: fn(&Claim) -> String| Value::Texts(claims.iter().map(text).collect());
    vec![
        texts(|claim| claim.name().to_string()),
        texts(|claim| claim.holder().to_string()),
        Value::Numbers(claims.iter().map(|claim| to_micros(claim.ttl())).collect()),
        texts(info),
    ]
}

fn info(claim: &Claim) -> String {
    serde_json::to_string(claim.info()).unwrap_or_default()
}

/// All of these failed for the same reason.
fn refuse<T>(all: impl IntoIterator<Item = (Claim, oneshot::Sender<Result<T>>)>, error: &Error) {
    all.into_iter().for_each(|(_, answer)| drop(answer.send(Err(error.clone()))));
}
