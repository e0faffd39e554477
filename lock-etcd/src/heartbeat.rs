//! [`Heartbeats`]: renewals of etcd leases that a stale leader cannot answer.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use etcd_client::{Client, LeaseKeepAliveResponse, LeaseKeepAliveStream, LeaseKeeper, ResponseHeader};
use lock_core::{Clock, Effect, Error, ErrorKind, Moment, Result};

use crate::connections::{CallKind, Connections};
use crate::identity::Reply;
use crate::members::Members;

/// Renewals of etcd leases.
///
/// A leader that was paused while another was elected goes on answering keepalives, and what it says means nothing. So
/// each heartbeat is a linearizable read, which such a leader cannot answer, and then the keepalive; and it counts only
/// if the keepalive's raft term is not older than the read's. Then whoever answered was the leader when the read was
/// sent, or became it later, and keeps the lease for a full TTL from that moment at least.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    pub(crate) members: Arc<Members>,
    /// A key to read; it need not exist.
    pub(crate) key: Vec<u8>,
}

/// A heartbeat that was answered.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HeartbeatOutcome {
    /// The lease is kept for `ttl`, counted from `since`.
    Alive { since: Moment, ttl: Duration },
    /// There is no such lease.
    Gone,
}

/// A stream of keepalives at one member, with none under way: a stream on which one was cut off is dropped, so that a
/// late answer is never taken for the next one's.
#[derive(Debug)]
pub(crate) struct KeepAliveStream {
    /// Whose connection it is on: another runtime has its own.
    connections: Weak<Connections>,
    member: usize,
    keeper: LeaseKeeper,
    replies: LeaseKeepAliveStream,
}

/// What opening a stream of keepalives brought: the stream and its first answer; nothing, where there is no such lease.
struct OpenedStream(Option<(KeepAliveStream, LeaseKeepAliveResponse)>);

impl Reply for OpenedStream {
    fn header(&self) -> Option<&ResponseHeader> {
        self.0.as_ref().and_then(|(_, reply)| reply.header())
    }
}

impl Reply for LeaseKeepAliveResponse {
    fn header(&self) -> Option<&ResponseHeader> {
        self.header()
    }
}

/// What a keepalive said.
#[derive(Clone, Copy, Debug)]
struct KeepAlive {
    term: u64,
    ttl: i64,
}

impl From<LeaseKeepAliveResponse> for KeepAlive {
    fn from(reply: LeaseKeepAliveResponse) -> KeepAlive {
        KeepAlive { term: reply.header().map_or(0, |header| header.raft_term()), ttl: reply.ttl() }
    }
}

impl Heartbeat {
    /// One heartbeat for this lease; `stream` is used, or filled.
    pub(crate) async fn send(
        &self,
        clock: &Clock,
        lease: i64,
        stream: &Mutex<Option<KeepAliveStream>>,
    ) -> Result<HeartbeatOutcome> {
        let since = clock.now();
        let read = self.read_term().await?;
        let Some(kept) = self.keep_alive(lease, stream).await? else { return Ok(HeartbeatOutcome::Gone) };
        if kept.ttl <= 0 {
            return Ok(HeartbeatOutcome::Gone);
        }
        if kept.term < read {
            let text = format!("a stale leader of etcd (term {}, now {read}) answered a renewal", kept.term);
            return Err(Error::new(ErrorKind::Unavailable, Effect::Unknown, text));
        }
        Ok(HeartbeatOutcome::Alive { since, ttl: Duration::from_secs(kept.ttl.unsigned_abs()) })
    }

    /// The raft term of a linearizable read.
    async fn read_term(&self) -> Result<u64> {
        let read = |client: Arc<Client>| {
            let key = self.key.clone();
            async move { client.kv_client().get(key, None).await }
        };
        let read = self.members.call(CallKind::Heartbeat, "reading before a renewal", read).await?.value;
        read.header()
            .map(|header| header.raft_term())
            .ok_or_else(|| crate::error::unexpected_reply("a reading has no header"))
    }

    async fn keep_alive(&self, lease: i64, slot: &Mutex<Option<KeepAliveStream>>) -> Result<Option<KeepAlive>> {
        let connections = self.members.connections()?;
        let stream = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        let is_ours = |stream: &KeepAliveStream| std::ptr::eq(stream.connections.as_ptr(), Arc::as_ptr(&connections));
        let stream = stream.filter(|stream| is_ours(stream) && stream.member == self.members.preferred());
        if let Some(mut stream) = stream {
            let reply = tokio::time::timeout(self.members.timeout(), stream.exchange()).await;
            if let Ok(Ok(reply)) = reply {
                self.members.identity().check(self.members.endpoint(stream.member), &reply, 0)?;
                put_back(slot, stream);
                return Ok(Some(reply.into()));
            }
        }
        let open = |client: Arc<Client>| {
            let connections = Arc::downgrade(&connections);
            async move {
                let (keeper, answers) = match client.lease_client().keep_alive(lease).await {
                    // The client's own word for a TTL of 0.
                    Err(etcd_client::Error::LeaseKeepAliveError(_)) => return Ok(OpenedStream(None)),
                    opened => opened?,
                };
                let mut stream = KeepAliveStream { connections, member: usize::MAX, keeper, replies: answers };
                let reply = stream.exchange().await?;
                Ok(OpenedStream(Some((stream, reply))))
            }
        };
        let opened = self.members.call(CallKind::Heartbeat, "renewing", open).await?;
        let Some((mut stream, reply)) = opened.value.0 else { return Ok(None) };
        stream.member = opened.member;
        put_back(slot, stream);
        Ok(Some(reply.into()))
    }
}

fn put_back(slot: &Mutex<Option<KeepAliveStream>>, stream: KeepAliveStream) {
    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
}

impl KeepAliveStream {
    async fn exchange(&mut self) -> Result<LeaseKeepAliveResponse, etcd_client::Error> {
        self.keeper.keep_alive().await?;
        let reply = self.replies.message().await?;
        reply.ok_or_else(|| etcd_client::Error::Internal("a stream of keepalives has ended".into()))
    }
}
