//! [`Heartbeat`]: renewals of etcd leases that no stale leader can confirm.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use etcd_client::{Client, LeaseKeepAliveResponse, LeaseKeepAliveStream, LeaseKeeper, ResponseHeader};
use lock_core::kit::locked;
use lock_core::{Clock, Effect, Error, ErrorKind, Moment, Result};

use crate::call::CallKind;
use crate::connections::Connections;
use crate::members::Members;
use crate::reply::Reply;

/// Renewals of etcd leases.
///
/// A leader that was paused while another was elected goes on answering keepalives, and its replies
/// mean nothing. So each heartbeat is a linearizable read, which such a leader cannot answer, and
/// then a keepalive. It counts only if the keepalive's raft term is not older than the read's. Then
/// the member that replied was the leader when the read was sent, or became it later, and keeps the
/// lease for a full TTL from that moment at least.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    pub(crate) members: Arc<Members>,
    /// The key that is read; it need not exist.
    pub(crate) key: Vec<u8>,
}

/// The outcome of a heartbeat that was answered.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HeartbeatOutcome {
    /// The lease is kept for `ttl`, counted from `since`.
    Alive { since: Moment, ttl: Duration },
    /// There is no such lease.
    Gone,
}

/// A stream of keepalives at one member, with none in flight. A stream whose keepalive was cut off
/// is dropped, so that a late reply is never taken for that of the next one.
#[derive(Debug)]
pub(crate) struct KeepAliveStream {
    /// The connections that it belongs to: another runtime has its own.
    connections: Weak<Connections>,
    member: usize,
    keeper: LeaseKeeper,
    replies: LeaseKeepAliveStream,
}

/// A new stream of keepalives with its first reply; `None` if there is no such lease.
struct OpenedStream(Option<(KeepAliveStream, LeaseKeepAliveResponse)>);

impl Reply for OpenedStream {
    fn header(&self) -> Option<&ResponseHeader> {
        self.0.as_ref().and_then(|(_, reply)| reply.header())
    }
}

/// The reply to a keepalive.
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
    /// Sends one heartbeat for this lease, on the stream in `slot`, or on a new one that is put
    /// there.
    pub(crate) async fn send(
        &self,
        clock: &Clock,
        lease_id: i64,
        slot: &Mutex<Option<KeepAliveStream>>,
    ) -> Result<HeartbeatOutcome> {
        let since = clock.now();
        let read_term = self.read_term().await?;
        let Some(kept) = self.keep_alive(lease_id, slot).await? else { return Ok(HeartbeatOutcome::Gone) };
        if kept.ttl <= 0 {
            return Ok(HeartbeatOutcome::Gone);
        }
        if kept.term < read_term {
            let text = format!("a stale leader of etcd (term {}, now {read_term}) answered a renewal", kept.term);
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
        let reply = self.members.call(CallKind::Heartbeat, "reading before a renewal", read).await?.value;
        reply
            .header()
            .map(|header| header.raft_term())
            .ok_or_else(|| Error::unexpected_reply("a reading has no header"))
    }

    async fn keep_alive(&self, lease_id: i64, slot: &Mutex<Option<KeepAliveStream>>) -> Result<Option<KeepAlive>> {
        let connections = self.members.connections()?;
        let stream = locked(slot).take();
        let is_usable = |stream: &KeepAliveStream| {
            std::ptr::eq(stream.connections.as_ptr(), Arc::as_ptr(&connections))
                && stream.member == self.members.preferred()
        };
        if let Some(mut stream) = stream.filter(is_usable) {
            let reply = tokio::time::timeout(self.members.timeout(), stream.keep_alive()).await;
            if let Ok(Ok(reply)) = reply {
                self.members.identity().check(self.members.endpoint(stream.member), &reply, 0)?;
                *locked(slot) = Some(stream);
                return Ok(Some(reply.into()));
            }
        }
        let open = |client: Arc<Client>| open_stream(client, Arc::downgrade(&connections), lease_id);
        let opened = self.members.call(CallKind::Heartbeat, "renewing", open).await?;
        let Some((mut stream, reply)) = opened.value.0 else { return Ok(None) };
        stream.member = opened.member;
        *locked(slot) = Some(stream);
        Ok(Some(reply.into()))
    }
}

async fn open_stream(
    client: Arc<Client>,
    connections: Weak<Connections>,
    lease_id: i64,
) -> Result<OpenedStream, etcd_client::Error> {
    let (keeper, replies) = match client.lease_client().keep_alive(lease_id).await {
        // The client reports a TTL of 0 so.
        Err(etcd_client::Error::LeaseKeepAliveError(_)) => return Ok(OpenedStream(None)),
        opened => opened?,
    };
    let mut stream = KeepAliveStream { connections, member: usize::MAX, keeper, replies };
    let reply = stream.keep_alive().await?;
    Ok(OpenedStream(Some((stream, reply))))
}

impl KeepAliveStream {
    async fn keep_alive(&mut self) -> Result<LeaseKeepAliveResponse, etcd_client::Error> {
        self.keeper.keep_alive().await?;
        let reply = self.replies.message().await?;
        reply.ok_or_else(|| etcd_client::Error::Internal("a stream of keepalives has ended".into()))
    }
}
