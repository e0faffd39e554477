//! [`Members`]: the members of a cluster, and calls that fail over between them.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use lock_core::runtime::PerRuntime;
use lock_core::{Error, ErrorKind, Result};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::call::{CallError, CallKind, CallReply};
use crate::concurrency_limit::MAX_IN_FLIGHT;
use crate::config::{EtcdConfig, load_tls};
use crate::connections::{CallPermit, Connections};
use crate::error::{AttemptError, classify, no_answer, permanent};
use crate::fail_over::{AttemptFuture, FailOver, Limits, RETRY_INTERVAL_DIVISOR, TIMEOUTS_PER_MEMBER};
use crate::identity::ClusterIdentity;
use crate::reply::Reply;

/// The members of a cluster.
///
/// A call goes to the preferred member, the one that replied last, and [fails over](FailOver) to
/// the others when that one does not reply. So every call that is made here must be safe to repeat.
/// The client's own balancing would go on sending to a member that is dead.
///
/// Each runtime has connections of its own, and for each kind of call a limit on calls in flight.
pub(crate) struct Members {
    endpoints: Vec<String>,
    options: ConnectOptions,
    has_login: bool,
    timeout: Duration,
    identity: ClusterIdentity,
    connections: PerRuntime<Connections>,
    /// The index of the preferred member.
    preferred: AtomicUsize,
    /// Notified when another member is preferred: a watch at the old one ends then.
    preferred_changed: Notify,
}

/// Keepalive interval. Etcd refuses clients that ping more often than every five seconds.
const PING_INTERVAL: Duration = Duration::from_secs(6);

/// Minimum of a call's time-out, in member time-outs. The wait for a permit counts too.
const MIN_CALL_TIMEOUTS: u32 = 4;

/// Maximum number of logins in one attempt. A member that finds each of them expired counts as
/// failed.
const MAX_LOGINS: usize = 8;

impl Members {
    pub(crate) fn new(config: &EtcdConfig) -> Result<Members> {
        if config.endpoints.is_empty() {
            return Err(Error::invalid_config("etcd needs at least one endpoint"));
        }
        // Not set: the client's time-out of calls, since each call has ours, and the client's
        // renewal of expired logins, since it knows only one of their signs.
        let mut options = ConnectOptions::new()
            .with_connect_timeout(config.connect_timeout)
            .with_keep_alive(PING_INTERVAL, config.response_timeout)
            .with_keep_alive_while_idle(false)
            .with_tcp_keepalive(PING_INTERVAL)
            .with_require_leader(true);
        if let Some((user, password)) = &config.login {
            options = options.with_user(user, password);
        }
        if let Some(tls) = &config.tls {
            options = options.with_tls(load_tls(tls)?);
        }
        let scheme = if config.tls.is_some() { "https" } else { "http" };
        let endpoints: Vec<_> = config.endpoints.iter().map(|endpoint| format!("{scheme}://{endpoint}")).collect();
        let count = endpoints.len();
        Ok(Members {
            endpoints,
            options,
            has_login: config.login.is_some(),
            timeout: config.response_timeout,
            identity: ClusterIdentity::default(),
            connections: PerRuntime::new(move || Connections::new(count)),
            preferred: AtomicUsize::new(0),
            preferred_changed: Notify::new(),
        })
    }

    /// The identity of the members' cluster.
    pub(crate) fn identity(&self) -> &ClusterIdentity {
        &self.identity
    }

    /// The connections of the current runtime.
    pub(crate) fn connections(&self) -> Result<Arc<Connections>> {
        self.connections.get()
    }

    /// Time-out of one attempt.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(crate) fn len(&self) -> usize {
        self.endpoints.len()
    }

    pub(crate) fn endpoint(&self, index: usize) -> &str {
        &self.endpoints[index]
    }

    /// The index of the preferred member.
    pub(crate) fn preferred(&self) -> usize {
        self.preferred.load(Ordering::Acquire)
    }

    /// Completes when the member `index` is no longer preferred.
    pub(crate) async fn until_not_preferred(&self, index: usize) {
        loop {
            let changed = self.preferred_changed.notified();
            if self.preferred() != index {
                return;
            }
            changed.await;
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

    /// Time-out of a call at all members.
    fn call_timeout(&self) -> Duration {
        self.timeout * ((self.endpoints.len() * TIMEOUTS_PER_MEMBER) as u32).max(MIN_CALL_TIMEOUTS)
    }

    /// Waits for a permit; callers get theirs in the order in which they asked.
    pub(crate) async fn acquire_permit(&self, kind: CallKind, action: &str) -> Result<CallPermit> {
        self.identity.check_not_refused()?;
        let (connections, since) = (self.connections.get()?, Instant::now());
        if let Some(permit) = connections.permits(kind).try_acquire() {
            return Ok(CallPermit::new(connections, kind, since, permit));
        }
        let permit_timeout = self.timeout * MIN_CALL_TIMEOUTS;
        // Several calls may follow each other with one permit.
        let longest = self.call_timeout() * 2;
        // Boxed, so that the future of a call that need not wait stays small.
        match Box::pin(connections.permits(kind).acquire(permit_timeout, longest)).await {
            Some(permit) => Ok(CallPermit::new(connections.clone(), kind, since, permit)),
            None => {
                let text = format!(
                    "{action} was not sent to etcd within {permit_timeout:?}: {MAX_IN_FLIGHT} calls of this process \
                     are under way, and others came before"
                );
                Err(Error::refused(ErrorKind::Unavailable, text))
            }
        }
    }

    /// A permit, if one is free now.
    pub(crate) fn try_acquire_permit(&self, kind: CallKind) -> Result<Option<CallPermit>> {
        self.identity.check_not_refused()?;
        let (connections, since) = (self.connections.get()?, Instant::now());
        let permit = connections.permits(kind).try_acquire();
        Ok(permit.map(|permit| CallPermit::new(connections, kind, since, permit)))
    }

    /// As [`call`](Members::call), with this permit.
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
        let first = self.preferred();
        let mut attempt = std::pin::pin!(self.attempt(&permit.connections, permit.kind, first, action, &call));
        let (failure, in_flight) = match tokio::time::timeout(self.timeout, &mut attempt).await {
            Ok(Ok(value)) => return Ok(CallReply { value, in_doubt: false, member: first }),
            Ok(Err(failure)) if !failure.fail_over => return Err(failure.into_call_error(false)),
            Ok(Err(failure)) => (failure, None),
            Err(_) => (no_answer(action, self.endpoint(first), self.timeout), Some(attempt)),
        };
        // Boxed, so that the future of a call that succeeds at once stays small.
        let in_flight =
            in_flight.map(|attempt| Box::pin(async move { (first, attempt.await) }) as AttemptFuture<'_, T>);
        Box::pin(self.fail_over(permit, first, failure, in_flight, action, &call)).await
    }

    /// Continues a call that failed at the member `first`, or is still in flight there.
    async fn fail_over<'a, T, F>(
        &'a self,
        permit: &'a CallPermit,
        first: usize,
        failure: AttemptError,
        in_flight: Option<AttemptFuture<'a, T>>,
        action: &'a str,
        call: &'a (impl Fn(Arc<Client>) -> F + Sync),
    ) -> Result<CallReply<T>, CallError>
    where
        T: Reply + Send + 'a,
        F: Future<Output = Result<T, etcd_client::Error>> + Send + 'a,
    {
        let (connections, kind) = (&*permit.connections, permit.kind);
        let limits = Limits {
            action,
            members: self.len(),
            first_endpoint: self.endpoint(first),
            member_timeout: self.timeout,
            call_timeout: self.call_timeout(),
            deadline: permit.since + self.call_timeout(),
        };
        let attempt = |index| {
            let attempt = self.attempt(connections, kind, index, action, call);
            Box::pin(async move { (index, attempt.await) }) as AttemptFuture<'a, T>
        };
        let reply = FailOver::new(limits, first, failure, in_flight).run(attempt).await?;
        self.prefer(reply.member);
        Ok(reply)
    }

    /// Checks that the other members belong to the cluster of the member `first`. A member that
    /// does not reply soon is checked when it first replies.
    pub(crate) async fn check_one_cluster(&self, first: usize) -> Result<()> {
        let list = |client: Arc<Client>| async move { client.cluster_client().member_list().await };
        let check = |index| async move {
            let reply = self.call_member(index, "connecting", &list);
            drop(tokio::time::timeout(self.timeout / RETRY_INTERVAL_DIVISOR, reply).await);
            match self.identity.check_not_refused() {
                Ok(()) => Ok(()),
                Err(_) => Err(self.endpoint(index)),
            }
        };
        let others = (0..self.len()).filter(|index| *index != first).map(check);
        match futures_util::future::try_join_all(others).await {
            Ok(_) => Ok(()),
            Err(other) => {
                let text =
                    format!("{} and {other} are of two clusters of etcd: name members of one", self.endpoint(first));
                Err(Error::invalid_config(text))
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

    /// Makes a call at one member and waits for its reply; if the login has expired, it logs in and
    /// repeats the call.
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
        let classify = |failure| classify(action, endpoint, &failure);
        let mut logins = 0;
        loop {
            let client = member.client(endpoint, &self.options).await.map_err(classify)?;
            let (generation, revision) = (member.login_generation(), self.identity.revision());
            let failure = match call(client.clone()).await {
                Ok(reply) => {
                    self.identity.check(endpoint, &reply, revision).map_err(permanent)?;
                    return Ok(reply);
                }
                Err(failure) => classify(failure),
            };
            let may_be_expired = T::DENIES_EXPIRED_LOGINS && logins == 0 && failure.error.kind() == ErrorKind::Denied;
            if !self.has_login || !(failure.login_expired || may_be_expired) {
                return Err(failure);
            }
            if logins == MAX_LOGINS {
                let text = format!("{action} failed at the etcd member {endpoint}: it finds every login old");
                let error = Error::refused(ErrorKind::Unavailable, text);
                return Err(AttemptError { error, fail_over: true, ..failure });
            }
            logins += 1;
            Box::pin(member.log_in_again(client, generation)).await.map_err(classify)?;
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
