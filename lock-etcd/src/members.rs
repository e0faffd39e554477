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
use crate::concurrency_limit::{self, MAX_IN_FLIGHT};
use crate::connections::{CallKind, Connections};
use crate::error::{AttemptError, classify, no_answer, permanent};
use crate::identity::{ClusterIdentity, Reply};

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
    has_login: bool,
    timeout: Duration,
    identity: ClusterIdentity,
    connections: PerRuntime<Connections>,
    preferred: AtomicUsize,
    /// Told when another member is preferred: what hangs on the old one should look after itself.
    preferred_changed: Notify,
}

/// The turn of one call, or of some that follow each other. Nothing else is under way in its place.
#[derive(Debug)]
pub(crate) struct CallPermit {
    connections: Arc<Connections>,
    kind: CallKind,
    /// Since when it was waited for.
    since: Instant,
    _permit: concurrency_limit::Permit,
}

/// What a call brought.
pub(crate) struct CallReply<T> {
    pub(crate) value: T,
    /// A try before this one was cut off: it may have been applied, and may still be.
    pub(crate) in_doubt: bool,
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

impl AttemptError {
    /// What the whole call failed with; `cut_off` if a try of it may have been applied, or may still be.
    fn into_call_error(self, in_doubt: bool) -> CallError {
        let error = match in_doubt && !self.error.may_have_taken_effect() {
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
const PING_INTERVAL: Duration = Duration::from_secs(6);

/// For how many time-outs each member is asked in one call. An election takes up to two election time-outs, in which
/// nobody answers.
const TIMEOUTS_PER_MEMBER: usize = 2;

/// For how many time-outs an answer is waited for at least, with the time before it was a call's turn.
const MIN_CALL_TIMEOUTS: u32 = 4;

/// How often in a row a member may find the login old before that counts as its answer.
const MAX_LOGINS: usize = 8;

/// In trouble the next member is asked after this part of the time-out.
const RETRY_INTERVAL_DIVISOR: u32 = 4;

/// Where all have answered at once that they cannot, they are asked again after this part of the time-out.
const BACKOFF_DIVISOR: u32 = 16;

/// A try of one call at one member.
type AttemptFuture<'a, T> = Pin<Box<dyn Future<Output = (usize, Result<T, AttemptError>)> + Send + 'a>>;

impl Members {
    pub(crate) fn new(config: &EtcdConfig) -> Result<Members> {
        if config.endpoints.is_empty() {
            return Err(Error::refused(ErrorKind::InvalidConfig, "etcd needs at least one endpoint"));
        }
        // Each call has a time-out of ours: one of the client's beside it would be another timer for every call. So it is
        // with logins that have run out: the client knows one of several signs.
        let mut options = ConnectOptions::new()
            .with_connect_timeout(config.connect_timeout)
            .with_keep_alive(PING_INTERVAL, config.timeout)
            .with_keep_alive_while_idle(false)
            .with_tcp_keepalive(PING_INTERVAL)
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
            has_login: config.login.is_some(),
            timeout: config.timeout,
            identity: ClusterIdentity::default(),
            connections: PerRuntime::new(move || Connections::new(count)),
            preferred: AtomicUsize::new(0),
            preferred_changed: Notify::new(),
        })
    }

    /// Which cluster they are of.
    pub(crate) fn identity(&self) -> &ClusterIdentity {
        &self.identity
    }

    /// What the current runtime has of them.
    pub(crate) fn connections(&self) -> Result<Arc<Connections>> {
        self.connections.get()
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
    pub(crate) async fn until_not_preferred(&self, index: usize) {
        loop {
            let moved_on = self.preferred_changed.notified();
            if self.preferred() != index {
                return;
            }
            moved_on.await;
        }
    }

    /// Makes a call that is safe to repeat, at the preferred member first.
    pub(crate) async fn call<T, F>(
        &self,
        kind: CallKind,
        action: &str,
        call: impl Fn(Arc<Client>) -> F + Sync,
    ) -> Result<CallReply<T>, CallError>
    where
        T: Reply + Send,
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let permit = self.acquire_permit(kind, action).await.map_err(CallError::of)?;
        self.call_with(&permit, action, call).await
    }

    /// How long a call may take.
    fn call_timeout(&self) -> Duration {
        self.timeout * ((self.endpoints.len() * TIMEOUTS_PER_MEMBER) as u32).max(MIN_CALL_TIMEOUTS)
    }

    /// A turn for a call; it comes in the order of asking.
    pub(crate) async fn acquire_permit(&self, kind: CallKind, action: &str) -> Result<CallPermit> {
        self.identity.check_not_refused()?;
        let (connections, since) = (self.connections.get()?, Instant::now());
        if let Some(taken) = connections.permits(kind).try_acquire() {
            return Ok(CallPermit { connections, kind, since, _permit: taken });
        }
        let call_timeout = self.timeout * MIN_CALL_TIMEOUTS;
        // Some calls may follow each other in one turn.
        let longest = self.call_timeout() * 2;
        // Boxed, so that the future of a call that need not wait stays small.
        match Box::pin(connections.permits(kind).acquire(call_timeout, longest)).await {
            Some(taken) => Ok(CallPermit { connections: connections.clone(), kind, since, _permit: taken }),
            None => {
                let text = format!(
                    "{action} was not sent to etcd within {call_timeout:?}: {MAX_IN_FLIGHT} calls of this process are under way, \
                     and others came before"
                );
                Err(Error::refused(ErrorKind::Unavailable, text))
            }
        }
    }

    /// A turn for a call, if one is free now.
    pub(crate) fn try_acquire_permit(&self, kind: CallKind) -> Result<Option<CallPermit>> {
        self.identity.check_not_refused()?;
        let (connections, since) = (self.connections.get()?, Instant::now());
        let taken = connections.permits(kind).try_acquire();
        Ok(taken.map(|taken| CallPermit { connections, kind, since, _permit: taken }))
    }

    /// As [`call`](Members::call), in this turn.
    pub(crate) async fn call_with<T, F>(
        &self,
        permit: &CallPermit,
        action: &str,
        call: impl Fn(Arc<Client>) -> F + Sync,
    ) -> Result<CallReply<T>, CallError>
    where
        T: Reply + Send,
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let (connections, kind) = (&permit.connections, permit.kind);
        let first = self.preferred();
        let mut attempt = std::pin::pin!(self.attempt(connections, kind, first, action, &call));
        let (failed, runs) = match tokio::time::timeout(self.timeout, &mut attempt).await {
            Ok(Ok(value)) => return Ok(CallReply { value, in_doubt: false, member: first }),
            Ok(Err(failure)) if !failure.fail_over => return Err(failure.into_call_error(false)),
            Ok(Err(failure)) => (failure, None),
            Err(_) => (no_answer(action, self.endpoint(first), self.timeout), Some(attempt)),
        };
        // Boxed, so that the future of a call that is answered stays small.
        let runs = runs.map(|attempt| Box::pin(async move { (first, attempt.await) }) as AttemptFuture<'_, T>);
        Box::pin(self.fail_over(permit, first, failed, runs, action, &call)).await
    }

    /// Goes on with a call that failed at `first`, or still runs there.
    async fn fail_over<'a, T, F>(
        &'a self,
        permit: &'a CallPermit,
        first: usize,
        failed: AttemptError,
        runs: Option<AttemptFuture<'a, T>>,
        action: &'a str,
        call: &'a (impl Fn(Arc<Client>) -> F + Sync),
    ) -> Result<CallReply<T>, CallError>
    where
        T: Reply + Send,
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let (connections, kind) = (&*permit.connections, permit.kind);
        let count = self.endpoints.len();
        let most = count * TIMEOUTS_PER_MEMBER;
        let call_timeout = self.call_timeout();
        let until = permit.since + call_timeout;
        // There is no use in asking the only member again before it had its time.
        let pause = if count == 1 { self.timeout } else { self.timeout / RETRY_INTERVAL_DIVISOR };
        let mut running = vec![false; count];
        running[first] = runs.is_some();
        let mut tries: FuturesUnordered<AttemptFuture<'_, T>> = runs.into_iter().collect();
        let (mut asked, mut next, mut ask_at) = (1, first + 1, Instant::now());
        let mut in_doubt = failed.error.may_have_taken_effect();
        // Where nobody was reached at all, there is nothing to wait for.
        let mut reached = failed.reached;
        let mut last = failed;
        loop {
            let goes_on = if reached { Instant::now() < until } else { asked < most };
            if !goes_on && tries.is_empty() {
                return Err(last.into_call_error(in_doubt));
            }
            if !goes_on && reached {
                return Err(no_answer(action, self.endpoint(first), call_timeout).into_call_error(true));
            }
            // Who still has the call is not asked again.
            let free = (next..next + count).map(|index| index % count).find(|index| !running[*index]);
            let failure = tokio::select! {
                Some((index, reply)) = tries.next(), if !tries.is_empty() => {
                    running[index] = false;
                    match reply {
                        Ok(value) => {
                            self.prefer(index);
                            return Ok(CallReply { value, in_doubt: in_doubt || !tries.is_empty(), member: index });
                        }
                        Err(failure) => failure,
                    }
                },
                () = tokio::time::sleep_until(ask_at), if goes_on && free.is_some() => {
                    let index = free.unwrap_or(first);
                    running[index] = true;
                    tries.push(Box::pin(async move { (index, self.attempt(connections, kind, index, action, call).await) }));
                    (asked, next, ask_at) = (asked + 1, index + 1, Instant::now() + pause);
                    continue;
                }
                () = tokio::time::sleep_until(until), if reached => continue,
            };
            tracing::debug!(error = %failure.error, "moving on to the next member of etcd");
            in_doubt |= failure.error.may_have_taken_effect();
            if !failure.fail_over {
                return Err(failure.into_call_error(in_doubt || !tries.is_empty()));
            }
            reached |= failure.reached;
            let breath = if asked % count == 0 { self.timeout / BACKOFF_DIVISOR } else { Duration::ZERO };
            ask_at = ask_at.min(Instant::now() + breath);
            last = failure;
        }
    }

    /// Looks whether the others are of the same cluster as the `first` that answered. Who does not answer soon is found out
    /// when it first does.
    pub(crate) async fn check_one_cluster(&self, first: usize) -> Result<()> {
        let list = |client: Arc<Client>| async move { client.cluster_client().member_list().await };
        let ask = |index| async move {
            let asked = self.call_member(index, "connecting", &list);
            drop(tokio::time::timeout(self.timeout / RETRY_INTERVAL_DIVISOR, asked).await);
            match self.identity.check_not_refused() {
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
    pub(crate) async fn call_member<T, F>(
        &self,
        index: usize,
        action: &str,
        call: &(impl Fn(Arc<Client>) -> F + Sync),
    ) -> Result<T, AttemptError>
    where
        T: Reply + Send,
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let connections = self.connections.get().map_err(permanent)?;
        let attempt = self.attempt(&connections, CallKind::Request, index, action, call);
        let reply = tokio::time::timeout(self.timeout, attempt).await;
        reply.unwrap_or_else(|_| Err(no_answer(action, self.endpoint(index), self.timeout)))
    }

    /// Makes a call at one member until it is answered; where the login has run out, with a new one.
    async fn attempt<T, F>(
        &self,
        connections: &Connections,
        kind: CallKind,
        index: usize,
        action: &str,
        call: &(impl Fn(Arc<Client>) -> F + Sync),
    ) -> Result<T, AttemptError>
    where
        T: Reply + Send,
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let (member, endpoint) = (connections.member(kind, index), self.endpoint(index));
        let failed = |failure| classify(action, endpoint, &failure);
        let mut logins = 0;
        loop {
            let client = member.client(endpoint, &self.options).await.map_err(failed)?;
            let (login, seen) = (member.login_generation(), self.identity.revision());
            let failure = match call(client.clone()).await {
                Ok(reply) => {
                    self.identity.check(endpoint, &reply, seen).map_err(permanent)?;
                    return Ok(reply);
                }
                Err(failure) => failed(failure),
            };
            let hidden = T::DENIES_EXPIRED_LOGINS && logins == 0 && failure.error.kind() == ErrorKind::Denied;
            if !self.has_login || !(failure.login_expired || hidden) {
                return Err(failure);
            }
            if logins == MAX_LOGINS {
                let text = format!("{action} failed at the etcd member {endpoint}: it finds every login old");
                let error = Error::refused(ErrorKind::Unavailable, text);
                return Err(AttemptError { error, fail_over: true, ..failure });
            }
            logins += 1;
            Box::pin(member.log_in_again(client, login)).await.map_err(failed)?;
        }
    }

    fn prefer(&self, index: usize) {
        if self.preferred.swap(index, Ordering::AcqRel) != index {
            self.preferred_changed.notify_waiters();
        }
    }
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Members").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}
