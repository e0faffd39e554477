//! [`Requirement`]: a precondition of a case; [`Capabilities`]: the facts that decide it.

use lock_core::{Expiry, Fault, Faults, Guarantees, WaitStyle};

/// A precondition of a case: a promise of the store, or an ability of its deployments.
#[derive(Clone, Copy)]
pub(crate) enum Requirement {
    /// Leases carry fencing tokens.
    Tokens,
    /// Leases end by time.
    TimedExpiry,
    /// Every lease has its own TTL.
    TtlPerLease,
    /// Sessions carry the renewed leases.
    Sessions,
    /// The store has a queue.
    Queue,
    /// The store has no queue.
    NoQueue,
    /// The order of tokens survives this fault, and the deployment can inflict it.
    TokensSurvive(Fault),
    /// The records survive this fault, and the deployment can inflict it.
    RecordsSurvive(Fault),
    /// The deployment can end sessions.
    EndsSessions,
    /// The store has a token raiser.
    TokenRaiser,
    /// The store keeps a record for a quorum.
    RecordStore,
}

/// Facts about the store and its deployments, read once before the cases run.
#[derive(Clone, Copy)]
pub(crate) struct Capabilities {
    pub(crate) guarantees: Guarantees,
    pub(crate) faults: Faults,
    pub(crate) ends_sessions: bool,
    pub(crate) has_token_raiser: bool,
    pub(crate) has_record_store: bool,
}

impl Requirement {
    /// Why the store does not meet this requirement; `None` if it does.
    pub(crate) fn unmet(self, capabilities: &Capabilities) -> Option<String> {
        let promised = &capabilities.guarantees;
        let survives = |what: &str, survived: Faults, fault: Fault| {
            if !survived.contains(fault.into()) {
                Some(format!("{what} do not survive: {fault}"))
            } else {
                (!capabilities.faults.contains(fault.into())).then(|| format!("the deployment cannot make: {fault}"))
            }
        };
        let lacks = |has: bool, why: &str| (!has).then(|| why.to_owned());
        match self {
            Requirement::Tokens => lacks(promised.tokens_survive.is_some(), "no tokens"),
            Requirement::TimedExpiry => lacks(promised.expiry != Some(Expiry::Connection), "leases do not end by time"),
            Requirement::TtlPerLease => lacks(matches!(promised.expiry, Some(Expiry::Ttl(_))), "no TTL per lease"),
            Requirement::Sessions => lacks(matches!(promised.expiry, Some(Expiry::Session(_))), "no sessions"),
            Requirement::Queue => lacks(promised.waiting == WaitStyle::Queued, "no queue"),
            Requirement::NoQueue => lacks(promised.waiting != WaitStyle::Queued, "has a queue"),
            Requirement::TokensSurvive(fault) => match promised.tokens_survive {
                None => Some("no tokens".to_owned()),
                Some(survived) => survives("tokens", survived, fault),
            },
            Requirement::RecordsSurvive(fault) => survives("records", promised.records_survive, fault),
            Requirement::TokenRaiser => lacks(capabilities.has_token_raiser, "no raising of tokens"),
            Requirement::RecordStore => lacks(capabilities.has_record_store, "keeps nothing for a quorum"),
            Requirement::EndsSessions => lacks(capabilities.ends_sessions, "the deployment cannot end sessions"),
        }
    }
}
