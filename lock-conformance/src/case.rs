//! [`Case`]: one thing that every store must do; [`Need`], what must be promised for it to be asked.

use std::future::Future;
use std::pin::Pin;

use lock_core::{Expiry, Fault, Faults, Guarantees, WaitStyle};

use crate::Failure;
use crate::context::Context;

/// What a case says of the store: nothing, or what was wrong.
pub(crate) type Proof = Result<(), Failure>;

type Run = fn(Context) -> Pin<Box<dyn Future<Output = Proof> + Send>>;

/// One thing that every store must do.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    /// `group::sentence`.
    pub(crate) name: &'static str,
    pub(crate) needs: &'static [Need],
    pub(crate) run: Run,
}

/// What must be promised, or possible, for a case to be asked.
#[derive(Clone, Copy)]
pub(crate) enum Need {
    /// Leases carry fencing tokens.
    Tokens,
    /// Leases end by time.
    Time,
    /// Every lease has a TTL of its own.
    OwnLeases,
    /// Sessions carry the renewed leases.
    Sessions,
    /// The store has a queue.
    Queue,
    /// The store has no queue.
    NoQueue,
    /// The order of tokens survives this, and the deployment can make it.
    TokensSurvive(Fault),
    /// The records survive this, and the deployment can make it.
    RecordsSurvive(Fault),
    /// The deployment can end sessions.
    EndsSessions,
    /// The store raises tokens.
    Raises,
    /// The store keeps a text for a quorum.
    Keeps,
}

/// What is known of the store before the cases run.
#[derive(Clone, Copy)]
pub(crate) struct Known {
    pub(crate) guarantees: Guarantees,
    pub(crate) faults: Faults,
    pub(crate) ends_sessions: bool,
    pub(crate) raises: bool,
    pub(crate) keeps: bool,
}

impl Case {
    /// Why this case is not asked, if it is not.
    pub(crate) fn ruled_out(&self, known: &Known) -> Option<String> {
        self.needs.iter().find_map(|need| need.missing(known))
    }

    /// The fault that this case inflicts.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.needs.iter().find_map(|need| match need {
            Need::TokensSurvive(fault) | Need::RecordsSurvive(fault) => Some(*fault),
            _ => None,
        })
    }
}

impl Need {
    fn missing(self, known: &Known) -> Option<String> {
        let promised = &known.guarantees;
        let survives = |what: &str, survived: Faults, fault: Fault| {
            if !survived.contains(fault.into()) {
                Some(format!("{what} do not survive: {fault}"))
            } else {
                (!known.faults.contains(fault.into())).then(|| format!("the deployment cannot make: {fault}"))
            }
        };
        let lacks = |has: bool, why: &str| (!has).then(|| why.to_owned());
        match self {
            Need::Tokens => lacks(promised.tokens_survive.is_some(), "no tokens"),
            Need::Time => lacks(promised.expiry != Some(Expiry::Connection), "leases do not end by time"),
            Need::OwnLeases => lacks(matches!(promised.expiry, Some(Expiry::Ttl(_))), "no TTL per lease"),
            Need::Sessions => lacks(matches!(promised.expiry, Some(Expiry::Session(_))), "no sessions"),
            Need::Queue => lacks(promised.waiting == WaitStyle::Queued, "no queue"),
            Need::NoQueue => lacks(promised.waiting != WaitStyle::Queued, "has a queue"),
            Need::TokensSurvive(fault) => match promised.tokens_survive {
                None => Some("no tokens".to_owned()),
                Some(survived) => survives("tokens", survived, fault),
            },
            Need::RecordsSurvive(fault) => survives("records", promised.records_survive, fault),
            Need::Raises => lacks(known.raises, "no raising of tokens"),
            Need::Keeps => lacks(known.keeps, "keeps nothing for a quorum"),
            Need::EndsSessions => lacks(known.ends_sessions, "the deployment cannot end sessions"),
        }
    }
}

/// The cases of one group; a `needs` line holds for what follows it, up to the next.
macro_rules! cases {
    ($group:literal; $($needs:tt { $($case:ident),+ $(,)? })+) => {
        /// The cases of this group.
        pub(crate) const CASES: &[$crate::case::Case] = &[$($(
            $crate::case::Case {
                name: concat!($group, "::", stringify!($case)),
                needs: &$needs,
                run: |context| Box::pin($case(context)),
            },
        )+)+];
    };
}

/// Fails the case unless the condition holds.
macro_rules! ensure {
    ($holds:expr, $($text:tt)+) => {
        // Not a negation: an order of tokens is partial.
        if $holds {} else {
            return Err(format!("{} ({}:{})", format_args!($($text)+), file!(), line!()).into());
        }
    };
}

pub(crate) use {cases, ensure};
