//! [`Heartbeats`]: renewals of etcd leases that a stale leader cannot answer.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use etcd_client::{Client, LeaseKeepAliveResponse, LeaseKeepAliveStream, LeaseKeeper, ResponseHeader};
use lock_core::{Clock, Effect, Error, ErrorKind, Moment, Result};

use crate::cluster::Answer;
use crate::link::{Lane, Link};
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
    /// Whose connection it is on: another runtime has its own.
    link: Weak<Link>,
    member: usize,
    keeper: LeaseKeeper,
    answers: LeaseKeepAliveStream,
}

/// What opening a stream of keepalives brought: the stream and its first answer; nothing, where there is no such lease.
struct Opened(Option<(Stream, LeaseKeepAliveResponse)>);

impl Answer for Opened {
    fn header(&self) -> Option<&ResponseHeader> {
        self.0.as_ref().and_then(|(_, answer)| answer.header())
    }
}

impl Answer for LeaseKeepAliveResponse {
    fn header(&self) -> Option<&ResponseHeader> {
        self.header()
    }
}

/// What a keepalive said.
#[derive(Clone, Copy, Debug)]
struct Kept {
    term: u64,
    ttl: i64,
}

impl From<LeaseKeepAliveResponse> for Kept {
    fn from(answer: LeaseKeepAliveResponse) -> Kept {
        Kept { term: answer.header().map_or(0, |header| header.raft_term()), ttl: answer.ttl() }
    }
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
        let read = self.members.call(Lane::Beat, "reading before a renewal", read).await?.value;
        read.header().map(|header| header.raft_term()).ok_or_else(|| crate::error::protocol("a reading has no header"))
    }

    async fn keep_alive(&self, lease: i64, slot: &Mutex<Option<Stream>>) -> Result<Option<Kept>> {
        let link = self.members.link()?;
        let stream = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        let is_ours = |stream: &Stream| std::ptr::eq(stream.link.as_ptr(), Arc::as_ptr(&link));
        let stream = stream.filter(|stream| is_ours(stream) && stream.member == self.members.preferred());
        if let Some(mut stream) = stream {
            let answer = tokio::time::timeout(self.members.timeout(), stream.ask()).await;
            if let Ok(Ok(answer)) = answer {
                self.members.cluster().check(self.members.endpoint(stream.member), &answer, 0)?;
                put_back(slot, stream);
                return Ok(Some(answer.into()));
            }
        }
        let open = |client: Arc<Client>| {
            let link = Arc::downgrade(&link);
            async move {
                let (keeper, answers) = match client.lease_client().keep_alive(lease).await {
                    // The client's own word for a TTL of 0.
                    Err(etcd_client::Error::LeaseKeepAliveError(_)) => return Ok(Opened(None)),
                    opened => opened?,
                };
                let mut stream = Stream { link, member: usize::MAX, keeper, answers };
                let answer = stream.ask().await?;
                Ok(Opened(Some((stream, answer))))
            }
        };
        let opened = self.members.call(Lane::Beat, "renewing", open).await?;
        let Some((mut stream, answer)) = opened.value.0 else { return Ok(None) };
        stream.member = opened.member;
        put_back(slot, stream);
        Ok(Some(answer.into()))
    }
}

fn put_back(slot: &Mutex<Option<Stream>>, stream: Stream) {
    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
}

impl Stream {
    async fn ask(&mut self) -> Result<LeaseKeepAliveResponse, etcd_client::Error> {
        self.keeper.keep_alive().await?;
        let answer = self.answers.message().await?;
        answer.ok_or_else(|| etcd_client::Error::Internal("a stream of keepalives has ended".into()))
    }
}
