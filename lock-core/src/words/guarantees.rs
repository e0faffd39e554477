//! [`Guarantees`]: the promises of a store as configured, as a value that code and configuration
//! can compare.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::fault::{Fault, Faults};
use super::offer::Offers;

/// How a lease that is not renewed ends, and whose clock decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Expiry {
    /// Each lease has a TTL of its own.
    Ttl(ClockKind),
    /// A session carries the leases; they end with it.
    Session(ClockKind),
    /// A connection carries the lease; it ends when the store sees the connection end.
    Connection,
}

/// The clock that decides that a lease has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ClockKind {
    /// A clock that never steps; it may stop while the machine is suspended.
    Monotonic,
    /// A clock that never steps and counts suspended time.
    BootTime,
    /// The time of day, which can be set.
    Wall,
}

impl fmt::Display for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, clock) = match self {
            Expiry::Ttl(clock) => ("TTL", clock),
            Expiry::Session(clock) => ("session", clock),
            Expiry::Connection => return f.pad("connection"),
        };
        f.pad(&format!("{what}, {clock} clock"))
    }
}

impl fmt::Display for ClockKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            ClockKind::Monotonic => "monotonic",
            ClockKind::BootTime => "boot-time",
            ClockKind::Wall => "wall",
        })
    }
}

/// How waiters learn that a lock may be free. The order is from the weakest to the strongest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum WaitStyle {
    /// They ask again and again. Waiters of one process are served in order.
    Polled,
    /// The store notifies them. Waiters of one process are served in order.
    Notified,
    /// They wait in the store's own queue: first come, first served, across processes.
    Queued,
}

impl fmt::Display for WaitStyle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            WaitStyle::Polled => "polled",
            WaitStyle::Notified => "notified",
            WaitStyle::Queued => "queued",
        })
    }
}

/// The promises of a store as configured.
///
/// On every store, belief in a lease rests on time. Stores differ in the faults that their records
/// and tokens survive. "At least" means "contains": see [`shortfalls`](Guarantees::shortfalls).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Guarantees {
    /// Faults that the record of a held lock survives. A fault that is missing here can lead to two
    /// holders.
    pub records_survive: Faults,
    /// Faults that the order of fencing tokens survives; `None` if leases carry no tokens. A fault
    /// that is missing here can make a fence admit an old holder, or refuse a new one.
    pub tokens_survive: Option<Faults>,
    /// How a lease ends; `None` requires nothing.
    pub expiry: Option<Expiry>,
    /// How waiters learn that a lock may be free.
    pub waiting: WaitStyle,
    /// What the store can do beside granting a name to one holder.
    #[serde(default)]
    pub offers: Offers,
}

impl Guarantees {
    /// No promise but exclusion while there is no fault.
    pub const NONE: Guarantees = Guarantees {
        records_survive: Faults::NONE,
        tokens_survive: None,
        expiry: None,
        waiting: WaitStyle::Polled,
        offers: Offers::NONE,
    };

    /// The requirement of a lock for correctness: tokens that survive a crash, a power loss and a
    /// fail-over. A store without fail-over survives it trivially; one whose fail-over is
    /// asynchronous, or unknown, does not.
    pub const FOR_CORRECTNESS: Guarantees =
        Guarantees::NONE.tokens_survive(Faults::of(&[Fault::Crash, Fault::PowerLoss, Fault::FailOver]));

    /// The guarantees of a store in which this number of voting servers agree on every write, whose
    /// sessions end leases and whose waiters queue, as in etcd and ZooKeeper. With three voters it
    /// survives the loss of a minority.
    pub fn of_consensus(voters: usize) -> Guarantees {
        let mut records = Faults::of(&[Fault::Crash, Fault::PowerLoss, Fault::FailOver]);
        if voters >= 3 {
            records = records | Fault::MinorityLoss.into();
        }
        let tokens = records | Faults::of(&[Fault::ClockStep, Fault::Pause]);
        Guarantees::NONE
            .records_survive(records)
            .tokens_survive(tokens)
            .expiry(Expiry::Session(ClockKind::Monotonic))
            .waiting(WaitStyle::Queued)
    }

    /// These guarantees with records that survive `faults`.
    #[must_use]
    pub const fn records_survive(mut self, faults: Faults) -> Self {
        self.records_survive = faults;
        self
    }

    /// These guarantees with fencing tokens whose order survives `faults`.
    #[must_use]
    pub const fn tokens_survive(mut self, faults: Faults) -> Self {
        self.tokens_survive = Some(faults);
        self
    }

    /// These guarantees with this way to end a lease.
    #[must_use]
    pub const fn expiry(mut self, expiry: Expiry) -> Self {
        self.expiry = Some(expiry);
        self
    }

    /// These guarantees with this way to wait.
    #[must_use]
    pub const fn waiting(mut self, waiting: WaitStyle) -> Self {
        self.waiting = waiting;
        self
    }

    /// These guarantees with these offers.
    #[must_use]
    pub const fn offers(mut self, offers: Offers) -> Self {
        self.offers = offers;
        self
    }

    /// The shortfalls against `least`; empty if these guarantees are at least those.
    pub fn shortfalls(&self, least: &Guarantees) -> Vec<Shortfall> {
        let mut missing = Vec::new();
        let records = least.records_survive - self.records_survive;
        if !records.is_empty() {
            missing.push(Shortfall::Records(records));
        }
        match (least.tokens_survive, self.tokens_survive) {
            (None, _) => {}
            (Some(_), None) => missing.push(Shortfall::NoTokens),
            (Some(asked), Some(kept)) if !kept.contains(asked) => missing.push(Shortfall::Tokens(asked - kept)),
            (Some(_), Some(_)) => {}
        }
        if least.expiry.is_some() && least.expiry != self.expiry {
            missing.extend(least.expiry.map(Shortfall::Expiry));
        }
        if self.waiting < least.waiting {
            missing.push(Shortfall::Waiting(least.waiting));
        }
        let offers = least.offers - self.offers;
        if !offers.is_empty() {
            missing.push(Shortfall::Offers(offers));
        }
        missing
    }

    /// Checks that these guarantees of `whom` are at least `least`. The error text names the
    /// shortfalls.
    pub(crate) fn require(&self, least: &Guarantees, whom: &str) -> Result<(), String> {
        let missing: Vec<_> = self.shortfalls(least).iter().map(ToString::to_string).collect();
        match missing.is_empty() {
            true => Ok(()),
            false => Err(format!("{whom} is too weak for what was asked: {}", missing.join("; "))),
        }
    }
}

/// One requirement that a store does not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Shortfall {
    /// The record of a held lock does not survive these faults.
    Records(Faults),
    /// Its leases carry no fencing token.
    NoTokens,
    /// The order of its tokens does not survive these faults.
    Tokens(Faults),
    /// A lease does not end in this way.
    Expiry(Expiry),
    /// Waiters are not served in this way.
    Waiting(WaitStyle),
    /// It does not offer these.
    Offers(Offers),
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shortfall::Records(faults) => write!(f, "its record of who holds a lock does not survive: {faults}"),
            Shortfall::NoTokens => f.write_str("it gives no fencing tokens"),
            Shortfall::Tokens(faults) => write!(f, "its fencing tokens do not survive: {faults}"),
            Shortfall::Expiry(expiry) => write!(f, "its leases do not end by {expiry}"),
            Shortfall::Waiting(waiting) => write!(f, "its waiters are not {waiting}"),
            Shortfall::Offers(offers) => write!(f, "it does not offer: {offers}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::offer::Offer;
    use super::*;

    const CRASH: Faults = Faults::of(&[Fault::Crash]);

    #[test]
    fn at_least_means_contains() {
        let store = Guarantees::NONE.tokens_survive(CRASH | Fault::PowerLoss.into()).waiting(WaitStyle::Notified);
        assert_eq!(store.shortfalls(&Guarantees::NONE), []);
        assert_eq!(store.shortfalls(&Guarantees::NONE.tokens_survive(CRASH).waiting(WaitStyle::Polled)), []);
        assert_eq!(
            store.shortfalls(&Guarantees::FOR_CORRECTNESS.waiting(WaitStyle::Queued)),
            [Shortfall::Tokens(Fault::FailOver.into()), Shortfall::Waiting(WaitStyle::Queued)]
        );
    }

    #[test]
    fn tokens_that_survive_nothing_are_still_more_than_no_tokens() {
        let asked = Guarantees::NONE.tokens_survive(Faults::NONE);
        assert_eq!(asked.shortfalls(&asked), []);
        assert_eq!(Guarantees::NONE.shortfalls(&asked), [Shortfall::NoTokens]);
    }

    #[test]
    fn a_shortfall_names_the_missing_faults() {
        let words = Shortfall::Tokens(Faults::of(&[Fault::FailOver, Fault::Crash])).to_string();
        assert_eq!(words, "its fencing tokens do not survive: crash, fail-over");
    }

    #[test]
    fn an_offer_that_is_missing_is_named() {
        let asked = Guarantees::NONE.offers(Offers::of(&[Offer::Read, Offer::Permits]));
        assert_eq!(asked.shortfalls(&asked), []);
        let missing = Guarantees::NONE.offers(Offer::Read.into()).shortfalls(&asked);
        assert_eq!(missing, [Shortfall::Offers(Offer::Permits.into())]);
        assert_eq!(missing[0].to_string(), "it does not offer: permits");
    }

    #[test]
    fn faults_are_a_list_of_words_in_configuration() {
        let text = serde_json::to_string(&Faults::of(&[Fault::Crash, Fault::PowerLoss])).unwrap();
        assert_eq!(text, r#"["crash","power-loss"]"#);
        assert_eq!(serde_json::from_str::<Faults>(&text).unwrap(), CRASH | Fault::PowerLoss.into());
    }
}
