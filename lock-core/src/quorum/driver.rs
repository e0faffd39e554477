//! [`QuorumDriver`].

use std::sync::Arc;

use async_trait::async_trait;
use tokio::task::JoinSet;

use super::Quorum;
use crate::{
    Clock, ClockKind, Driver, Effect, Error, ErrorKind, Expiry, Fault, Faults, Guarantees, LockStore, Registry, Result,
    StoreKind, StoreUrl, WaitStyle,
};

/// Opens a [`Quorum`]: one member for each host of the URL, of another scheme of the same registry. User, password,
/// path and keys are those of every member, except for the keys of the quorum itself, `longest_ttl` and
/// `member_timeout`.
///
/// Every member must be there when the quorum is opened, since its realm is made of theirs; afterwards a minority may
/// fail.
#[derive(Clone, Copy, Debug)]
pub struct QuorumDriver {
    kind: StoreKind,
    member: &'static str,
}

/// A quorum of fewer tolerates no failure, and is worse than one store.
const FEWEST: usize = 3;
const KEYS: [&str; 2] = ["longest_ttl", "member_timeout"];

impl QuorumDriver {
    /// A driver of this kind, whose members are opened by this scheme.
    pub const fn new(kind: StoreKind, member: &'static str) -> QuorumDriver {
        QuorumDriver { kind, member }
    }

    /// The driver of `redlock://h1,h2,h3`, whose members are `redis://h1`, `redis://h2` and `redis://h3`.
    pub const fn redlock() -> QuorumDriver {
        const RECORDS: Faults = Faults::of(&[Fault::Crash, Fault::PowerLoss, Fault::MinorityLoss]);
        const TOKENS: Faults = Faults::of(&[
            Fault::Crash,
            Fault::PowerLoss,
            Fault::FailOver,
            Fault::MinorityLoss,
            Fault::ClockStep,
            Fault::Pause,
        ]);
        let kind = StoreKind {
            schemes: &["redlock"],
            example: "redlock://10.0.0.1,10.0.0.2,10.0.0.3",
            at_best: Guarantees::NONE
                .records_survive(RECORDS)
                .tokens_survive(TOKENS)
                .expiry(Expiry::Ttl(ClockKind::Wall))
                .waiting(WaitStyle::Polled),
            provided: "if every member persists every write, and none has a replica that can take over",
        };
        QuorumDriver::new(kind, "redis")
    }

    fn members(&self, url: &StoreUrl) -> Result<Vec<StoreUrl>> {
        let refused =
            |why: String| Err(Error::refused(ErrorKind::InvalidConfig, format!("{url} is not accepted: {why}")));
        if url.hosts().len() < FEWEST {
            return refused(format!("a quorum needs {FEWEST} hosts or more, since one of fewer survives no failure"));
        }
        for (at, host) in url.hosts().iter().enumerate() {
            if url.hosts()[..at].contains(host) {
                let port = host.1.map_or_else(String::new, |port| format!(":{port}"));
                return refused(format!("the host {}{port} is given twice", host.0));
            }
        }
        Ok((0..url.hosts().len()).map(|at| url.for_member(self.member, at, &KEYS)).collect())
    }
}

#[async_trait]
impl Driver for QuorumDriver {
    fn kind(&self) -> StoreKind {
        self.kind
    }

    async fn open(&self, url: &StoreUrl, all: &Registry, clock: &Clock) -> Result<Arc<dyn LockStore>> {
        let members = self.members(url)?;
        let (longest_ttl, member_timeout) = (url.duration(KEYS[0])?, url.duration(KEYS[1])?);
        let mut opening = JoinSet::new();
        for member in members {
            let (all, clock) = (all.clone(), clock.clone());
            opening.spawn(async move {
                all.open(&member, &clock).await.map_err(|error| {
                    let text = format!("the member {member} of the quorum: {error}");
                    Error::new(error.kind(), Effect::None, text).with_source(error)
                })
            });
        }
        let mut stores = Vec::new();
        while let Some(opened) = opening.join_next().await {
            let ended = |_| Error::refused(ErrorKind::Unavailable, "opening a member of the quorum was cut off");
            stores.push(opened.map_err(ended)??);
        }
        let mut quorum = Quorum::new(stores)?;
        if let Some(ttl) = longest_ttl {
            quorum = quorum.longest_ttl(ttl);
        }
        if let Some(limit) = member_timeout {
            quorum = quorum.member_timeout(limit);
        }
        Ok(Arc::new(quorum))
    }
}
