//! [`Members`]: the members of a cluster, and calls that move on to the next one.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use lock_core::runtime::PerRuntime;
use lock_core::{Effect, Error, ErrorKind, Result};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::EtcdConfig;
use crate::cluster::{Answer, Cluster};
use crate::error::{Judgement, judge, no_answer, refused};
use crate::link::{Lane, Link};
use crate::turns::{self, UNDER_WAY};

/// The members of a cluster. A call goes to the member that answered last, and moves on to the next one when it does
/// not: so every call that is made here must be safe to repeat. The client's own balancing would go on sending to a
/// member that is dead.
///
/// Once a call has failed at one member, the others are asked in short turns, and those asked before may still answer:
/// while a leader is missing, a member that does not know it yet passes the call on to the dead one, where it is lost, and
/// would be waited for in vain long after another leads. No member is asked again while it still has the call: a server
/// that is slow is not helped by more of the same.
///
/// Each runtime has connections of its own, and for each kind of call a bound on what is under way.
pub(crate) struct Members {
    endpoints: Vec<String>,
    options: ConnectOptions,
    logs_in: bool,
    timeout: Duration,
    cluster: Cluster,
    links: PerRuntime<Link>,
    preferred: AtomicUsize,
    /// Told when another member is preferred: what hangs on the old one should look after itself.
    moved_on: Notify,
}

/// The turn of one call, or of some that follow each other. Nothing else is under way in its place.
#[derive(Debug)]
pub(crate) struct Turn {
    link: Arc<Link>,
    lane: Lane,
    /// Since when it was waited for.
    since: Instant,
    _taken: turns::Turn,
}

/// What a call brought.
pub(crate) struct Called<T> {
    pub(crate) value: T,
    /// A try before this one was cut off: it may have been applied, and may still be.
    pub(crate) cut_off: bool,
    /// Which member answered.
    pub(crate) member: usize,
}

/// How a call failed.
#[derive(Debug)]
pub(crate) struct CallError {
    pub(crate) error: Error,
    pub(crate) lease_is_gone: bool,
}

impl CallError {
    /// Another failure, in which no lease is known to be gone.
    pub(crate) fn of(error: Error) -> CallError {
        CallError { error, lease_is_gone: false }
    }
}

impl Judgement {
    /// What the whole call failed with; `cut_off` if a try of it may have been applied, or may still be.
    fn into_call_error(self, cut_off: bool) -> CallError {
        let error = match cut_off && !self.error.may_have_taken_effect() {
            true => Error::new(self.error.kind(), Effect::Unknown, self.error.to_string()),
            false => self.error,
        };
        CallError { error, lease_is_gone: self.lease_is_gone }
    }
}

impl From<CallError> for Error {
    fn from(failed: CallError) -> Error {
        failed.error
    }
}

/// Etcd refuses clients that ping more often than every five seconds.
const PING: Duration = Duration::from_secs(6);

/// For how many time-outs each member is asked in one call. An election takes up to two election time-outs, in which
/// nobody answers.
const PASSES: usize = 2;

/// For how many time-outs an answer is waited for at least, with the time before it was a call's turn.
const PATIENCE: u32 = 4;

/// How often in a row a member may find the login old before that counts as its answer.
const LOGINS: usize = 8;

/// In trouble the next member is asked after this part of the time-out.
const TURN: u32 = 4;

/// Where all have answered at once that they cannot, they are asked again after this part of the time-out.
const BREATH: u32 = 16;

/// A try of one call at one member.
type Try<'a, T> = Pin<Box<dyn Future<Output = (usize, Result<T, Judgement>)> + Send + 'a>>;

impl Members {
    pub(crate) fn new(config: &EtcdConfig) -> Result<Members> {
        if config.endpoints.is_empty() {
            return Err(Error::refused(ErrorKind::InvalidConfig, "etcd needs at least one endpoint"));
        }
        // Each call has a time-out of ours: one of the client's beside it would be another timer for every call. So it is
        // with logins that have run out: the client knows one of several signs.
        let mut options = ConnectOptions::new()
            .with_connect_timeout(config.connect_timeout)
            .with_keep_alive(PING, config.timeout)
            .with_keep_alive_while_idle(false)
            .with_tcp_keepalive(PING)
            .with_require_leader(true);
        if let Some((user, password)) = &config.login {
            options = options.with_user(user, password);
        }
        if let Some(tls) = &config.tls {
            options = options.with_tls(tls.load()?);
        }
        let scheme = if config.tls.is_some() { "https" } else { "http" };
        let endpoints: Vec<_> = config.endpoints.iter().map(|endpoint| format!("{scheme}://{endpoint}")).collect();
        let count = endpoints.len();
        Ok(Members {
            endpoints,
            options,
            logs_in: config.login.is_some(),
            timeout: config.timeout,
            cluster: Cluster::default(),
            links: PerRuntime::new(move || Link::new(count)),
            preferred: AtomicUsize::new(0),
            moved_on: Notify::new(),
        })
    }

    /// Which cluster they are of.
    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// What the current runtime has of them.
    pub(crate) fn link(&self) -> Result<Arc<Link>> {
        self.links.get()
    }

    /// How long one member may take to answer.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(crate) fn len(&self) -> usize {
        self.endpoints.len()
    }

    pub(crate) fn endpoint(&self, index: usize) -> &str {
        &self.endpoints[index]
    }

    /// Which member is preferred now.
    pub(crate) fn preferred(&self) -> usize {
        self.preferred.load(Ordering::Acquire)
    }

    /// Completes when another member than `index` is preferred.
    pub(crate) async fn moved_on_from(&self, index: usize) {
        loop {
            let moved_on = self.moved_on.notified();
            if self.preferred() != index {
                return;
            }
            moved_on.await;
        }
    }

    /// Makes a call that is safe to repeat, at the preferred member first.
    pub(crate) async fn call<T, F>(
        &self,
        lane: Lane,
        doing: &str,
        call: impl Fn(Arc<Client>) -> F + Sync,
    ) -> Result<Called<T>, CallError>
    where
        T: Answer + Send,
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let turn = self.turn(lane, doing).await.map_err(CallError::of)?;
        self.call_in(&turn, doing, call).await
    }

    /// How long a call may take.
    fn patience(&self) -> Duration {
        self.timeout * ((self.endpoints.len() * PASSES) as u32).max(PATIENCE)
    }

    /// A turn for a call; it comes in the order of asking.
    pub(crate) async fn turn(&self, lane: Lane, doing: &str) -> Result<Turn> {
        self.cluster.admit()?;
        let (link, since) = (self.links.get()?, Instant::now());
        if let Some(taken) = link.turns(lane).now() {
            return Ok(Turn { link, lane, since, _taken: taken });
        }
        let patience = self.timeout * PATIENCE;
        // Some calls may follow each other in one turn.
        let longest = self.patience() * 2;
        // Boxed, so that the future of a call that need not wait stays small.
        match Box::pin(link.turns(lane).next(patience, longest)).await {
            Some(taken) => Ok(Turn { link: link.clone(), lane, since, _taken: taken }),
            None => {
                let text = format!(
                    "{doing} was not sent to etcd within {patience:?}: {UNDER_WAY} calls of this process are under way, \
                     and others came before"
                );
                Err(Error::refused(ErrorKind::Unavailable, text))
            }
        }
    }

    /// A turn for a call, if one is free now.
    pub(crate) fn turn_now(&self, lane: Lane) -> Result<Option<Turn>> {
        self.cluster.admit()?;
        let (link, since) = (self.links.get()?, Instant::now());
        let taken = link.turns(lane).now();
        Ok(taken.map(|taken| Turn { link, lane, since, _taken: taken }))
    }

    /// As [`call`](Members::call), in this turn.
    pub(crate) async fn call_in<T, F>(
        &self,
        turn: &Turn,
        doing: &str,
        call: impl Fn(Arc<Client>) -> F + Sync,
    ) -> Result<Called<T>, CallError>
    where
        T: Answer + Send,
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let (link, lane) = (&turn.link, turn.lane);
        let first = self.preferred();
        let mut attempt = std::pin::pin!(self.attempt(link, lane, first, doing, &call));
        let (failed, runs) = match tokio::time::timeout(self.timeout, &mut attempt).await {
            Ok(Ok(value)) => return Ok(Called { value, cut_off: false, member: first }),
            Ok(Err(judged)) if !judged.move_on => return Err(judged.into_call_error(false)),
            Ok(Err(judged)) => (judged, None),
            Err(_) => (no_answer(doing, self.endpoint(first), self.timeout), Some(attempt)),
        };
        // Boxed, so that the future of a call that is answered stays small.
        let runs = runs.map(|attempt| Box::pin(async move { (first, attempt.await) }) as Try<'_, T>);
        Box::pin(self.move_on(turn, first, failed, runs, doing, &call)).await
    }

    /// Goes on with a call that failed at `first`, or still runs there.
    async fn move_on<'a, T, F>(
        &'a self,
        turn: &'a Turn,
        first: usize,
        failed: Judgement,
        runs: Option<Try<'a, T>>,
        doing: &'a str,
        call: &'a (impl Fn(Arc<Client>) -> F + Sync),
    ) -> Result<Called<T>, CallError>
    where
        T: Answer + Send,
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let (link, lane) = (&*turn.link, turn.lane);
        let count = self.endpoints.len();
        let most = count * PASSES;
        let patience = self.patience();
        let until = turn.since + patience;
        // There is no use in asking the only member again before it had its time.
        let pause = if count == 1 { self.timeout } else { self.timeout / TURN };
        let mut running = vec![false; count];
        running[first] = runs.is_some();
        let mut tries: FuturesUnordered<Try<'_, T>> = runs.into_iter().collect();
        let (mut asked, mut next, mut ask_at) = (1, first + 1, Instant::now());
        let mut cut_off = failed.error.may_have_taken_effect();
        // Where nobody was reached at all, there is nothing to wait for.
        let mut reached = failed.reached;
        let mut last = failed;
        loop {
            let goes_on = if reached { Instant::now() < until } else { asked < most };
            if !goes_on && tries.is_empty() {
                return Err(last.into_call_error(cut_off));
            }
            if !goes_on && reached {
                return Err(no_answer(doing, self.endpoint(first), patience).into_call_error(true));
            }
            // Who still has the call is not asked again.
            let free = (next..next + count).map(|index| index % count).find(|index| !running[*index]);
            let judged = tokio::select! {
                Some((index, answer)) = tries.next(), if !tries.is_empty() => {
                    running[index] = false;
                    match answer {
                        Ok(value) => {
                            self.prefer(index);
                            return Ok(Called { value, cut_off: cut_off || !tries.is_empty(), member: index });
                        }
                        Err(judged) => judged,
                    }
                },
                () = tokio::time::sleep_until(ask_at), if goes_on && free.is_some() => {
                    let index = free.unwrap_or(first);
                    running[index] = true;
                    tries.push(Box::pin(async move { (index, self.attempt(link, lane, index, doing, call).await) }));
                    (asked, next, ask_at) = (asked + 1, index + 1, Instant::now() + pause);
                    continue;
                }
                () = tokio::time::sleep_until(until), if reached => continue,
            };
            tracing::debug!(error = %judged.error, "moving on to the next member of etcd");
            cut_off |= judged.error.may_have_taken_effect();
            if !judged.move_on {
                return Err(judged.into_call_error(cut_off || !tries.is_empty()));
            }
            reached |= judged.reached;
            let breath = if asked % count == 0 { self.timeout / BREATH } else { Duration::ZERO };
            ask_at = ask_at.min(Instant::now() + breath);
            last = judged;
        }
    }

    /// Looks whether the others are of the same cluster as the `first` that answered. Who does not answer soon is found out
    /// when it first does.
    pub(crate) async fn are_of_one_cluster(&self, first: usize) -> Result<()> {
        let list = |client: Arc<Client>| async move { client.cluster_client().member_list().await };
        let ask = |index| async move {
            let asked = self.call_at(index, "connecting", &list);
            drop(tokio::time::timeout(self.timeout / TURN, asked).await);
            match self.cluster.admit() {
                Ok(()) => Ok(()),
                Err(_) => Err(self.endpoint(index)),
            }
        };
        let others = (0..self.len()).filter(|index| *index != first).map(ask);
        match futures_util::future::try_join_all(others).await {
            Ok(_) => Ok(()),
            Err(other) => {
                let text =
                    format!("{} and {other} are of two clusters of etcd: name members of one", self.endpoint(first));
                Err(Error::refused(ErrorKind::InvalidConfig, text))
            }
        }
    }

    /// Makes a call at one member, once, within its time-out.
    pub(crate) async fn call_at<T, F>(
        &self,
        index: usize,
        doing: &str,
        call: &(impl Fn(Arc<Client>) -> F + Sync),
    ) -> Result<T, Judgement>
    where
        T: Answer + Send,
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let link = self.links.get().map_err(refused)?;
        let attempt = self.attempt(&link, Lane::Ask, index, doing, call);
        let answer = tokio::time::timeout(self.timeout, attempt).await;
        answer.unwrap_or_else(|_| Err(no_answer(doing, self.endpoint(index), self.timeout)))
    }

    /// Makes a call at one member until it is answered; where the login has run out, with a new one.
    async fn attempt<T, F>(
        &self,
        link: &Link,
        lane: Lane,
        index: usize,
        doing: &str,
        call: &(impl Fn(Arc<Client>) -> F + Sync),
    ) -> Result<T, Judgement>
    where
        T: Answer + Send,
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let (member, endpoint) = (link.member(lane, index), self.endpoint(index));
        let failed = |failure| judge(doing, endpoint, &failure);
        let mut logins = 0;
        loop {
            let client = member.client(endpoint, &self.options).await.map_err(failed)?;
            let (login, seen) = (member.login(), self.cluster.revision());
            let judged = match call(client.clone()).await {
                Ok(answer) => {
                    self.cluster.check(endpoint, &answer, seen).map_err(refused)?;
                    return Ok(answer);
                }
                Err(failure) => failed(failure),
            };
            let hidden = T::HIDES_OLD_LOGINS && logins == 0 && judged.error.kind() == ErrorKind::Denied;
            if !self.logs_in || !(judged.login_is_old || hidden) {
                return Err(judged);
            }
            if logins == LOGINS {
                let text = format!("{doing} failed at the etcd member {endpoint}: it finds every login old");
                let error = Error::refused(ErrorKind::Unavailable, text);
                return Err(Judgement { error, move_on: true, ..judged });
            }
            logins += 1;
            Box::pin(member.log_in_again(client, login)).await.map_err(failed)?;
        }
    }

    fn prefer(&self, index: usize) {
        if self.preferred.swap(index, Ordering::AcqRel) != index {
            self.moved_on.notify_waiters();
        }
    }
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Members").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}
