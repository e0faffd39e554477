//! [`Heartbeats`]: renewals of etcd leases that a stale leader cannot answer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{Client, LeaseKeepAliveStream, LeaseKeeper};
use lock_core::{Clock, Effect, Error, ErrorKind, Moment, Result};

use crate::members::Members;

/// Renewals of etcd leases.
///
/// A leader that was paused while another was elected goes on answering keepalives, and what it says means nothing. So
/// each heartbeat is a linearizable read, which such a leader cannot answer, and then the keepalive; and it counts only
/// if the keepalive's raft term is not older than the read's. Then whoever answered was the leader when the read was
/// sent, or became it later, and keeps the lease for a full TTL from that moment at least.
#[derive(Debug)]
pub(crate) struct Heartbeats {
    pub(crate) members: Arc<Members>,
    /// A key to read; it need not exist.
    pub(crate) key: Vec<u8>,
}

/// A heartbeat that was answered.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Beaten {
    /// The lease is kept for `ttl`, counted from `since`.
    Alive { since: Moment, ttl: Duration },
    /// There is no such lease.
    Gone,
}

/// A stream of keepalives at one member, with none under way: a stream on which one was cut off is dropped, so that a
/// late answer is never taken for the next one's.
#[derive(Debug)]
pub(crate) struct Stream {
    member: usize,
    keeper: LeaseKeeper,
    answers: LeaseKeepAliveStream,
}

/// What a keepalive said.
#[derive(Clone, Copy, Debug)]
struct Kept {
    term: u64,
    ttl: i64,
}

impl Heartbeats {
    /// One heartbeat for this lease; `stream` is used, or filled.
    pub(crate) async fn beat(&self, clock: &Clock, lease: i64, stream: &Mutex<Option<Stream>>) -> Result<Beaten> {
        let since = clock.now();
        let read = self.term().await?;
        let Some(kept) = self.keep_alive(lease, stream).await? else { return Ok(Beaten::Gone) };
        if kept.ttl <= 0 {
            return Ok(Beaten::Gone);
        }
        if kept.term < read {
            let text = format!("a stale leader of etcd (term {}, now {read}) answered a renewal", kept.term);
            return Err(Error::new(ErrorKind::Unavailable, Effect::Unknown, text));
        }
        Ok(Beaten::Alive { since, ttl: Duration::from_secs(kept.ttl.unsigned_abs()) })
    }

    /// The raft term of a linearizable read.
    async fn term(&self) -> Result<u64> {
        let read = |client: Arc<Client>| {
            let key = self.key.clone();
            async move { client.kv_client().get(key, None).await }
        };
        let read = self.members.call("reading before a renewal", read).await?.value;
        read.header().map(|header| header.raft_term()).ok_or_else(|| crate::error::protocol("a reading has no header"))
    }

    async fn keep_alive(&self, lease: i64, slot: &Mutex<Option<Stream>>) -> Result<Option<Kept>> {
        let stream = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        let stream = stream.filter(|stream| stream.member == self.members.preferred());
        if let Some(mut stream) = stream {
            let answer = tokio::time::timeout(self.members.timeout(), stream.ask()).await;
            if let Ok(Ok(kept)) = answer {
                put_back(slot, stream);
                return Ok(Some(kept));
            }
        }
        let open = |client: Arc<Client>| async move {
            let (keeper, answers) = match client.lease_client().keep_alive(lease).await {
                // The client's own word for a TTL of 0.
                Err(etcd_client::Error::LeaseKeepAliveError(_)) => return Ok(None),
                opened => opened?,
            };
            let mut stream = Stream { member: usize::MAX, keeper, answers };
            let kept = stream.ask().await?;
            Ok(Some((stream, kept)))
        };
        let opened = self.members.call("renewing", open).await?;
        let Some((mut stream, kept)) = opened.value else { return Ok(None) };
        stream.member = opened.member;
        put_back(slot, stream);
        Ok(Some(kept))
    }
}

fn put_back(slot: &Mutex<Option<Stream>>, stream: Stream) {
    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
}

impl Stream {
    async fn ask(&mut self) -> Result<Kept, etcd_client::Error> {
        self.keeper.keep_alive().await?;
        let answer = self.answers.message().await?;
        let answer = answer.ok_or_else(|| etcd_client::Error::Internal("a stream of keepalives has ended".into()))?;
        let term = answer.header().map_or(0, |header| header.raft_term());
        Ok(Kept { term, ttl: answer.ttl() })
    }
}
