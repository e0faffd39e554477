//! [`QuorumDriver`].

use std::sync::Arc;

use async_trait::async_trait;

use super::{Member, Quorum};
use crate::contract::LockStore;
use crate::open::{Driver, Registry, StoreKind, StoreUrl};
use crate::words::{Clock, ClockKind, Error, Expiry, Fault, Faults, Guarantees, Result, WaitStyle};

/// Opens a [`Quorum`]: one member for each host of the URL, of another scheme of the same registry.
/// User, password, path and keys are those of every member, except for the keys of the quorum
/// itself, `longest_ttl` and `member_timeout`.
///
/// A majority of the members must be up when the quorum is opened; the others join by themselves.
#[derive(Clone, Copy, Debug)]
pub struct QuorumDriver {
    kind: StoreKind,
    member: &'static str,
}

/// Fewest hosts. A quorum of fewer tolerates no failure, and is worse than one store.
const FEWEST: usize = 3;
const KEYS: [&str; 2] = ["longest_ttl", "member_timeout"];

impl QuorumDriver {
    /// A driver of this kind, whose members are opened by this scheme.
    pub const fn new(kind: StoreKind, member: &'static str) -> QuorumDriver {
        QuorumDriver { kind, member }
    }

    /// The driver of `redlock://h1,h2,h3`, whose members are `redis://h1`, `redis://h2` and
    /// `redis://h3`.
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
        let refused = |why: String| Err(Error::invalid_config(format!("{url} is not accepted: {why}")));
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
        let (longest_ttl, member_timeout) = (url.duration(KEYS[0])?, url.duration(KEYS[1])?);
        let members = self.members(url)?.into_iter().map(|member| {
            let (name, all, clock) = (member.to_string(), all.clone(), clock.clone());
            Member::opened_by(name, move || {
                let (all, member, clock) = (all.clone(), member.clone(), clock.clone());
                async move { all.open(&member, &clock).await }
            })
        });
        let mut quorum = Quorum::open(members).await?;
        if let Some(ttl) = longest_ttl {
            quorum = quorum.longest_ttl(ttl);
        }
        if let Some(limit) = member_timeout {
            quorum = quorum.member_timeout(limit);
        }
        Ok(Arc::new(quorum))
    }
}
