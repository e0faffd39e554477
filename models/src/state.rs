//! [`State`]: a state of the model.

use crate::Rule;

pub(crate) const MEMBERS: usize = 3;
pub(crate) const MAJORITY: usize = 2;
/// The most attempts to acquire, each by a holder of its own, that a model can have.
pub(crate) const MAX_HOLDERS: usize = 4;

/// A state of the model. Equal members are interchangeable, so they are kept in order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct State {
    pub(crate) members: [Member; MEMBERS],
    pub(crate) attempts: [Attempt; MAX_HOLDERS],
    /// The tokens that were given out, a bit each.
    pub(crate) given: u32,
    /// A token was given out that must not have been.
    pub(crate) broken: bool,
    /// How many members may still lose their data.
    pub(crate) losses: u8,
    /// How often other names may still raise a counter.
    pub(crate) bumps: u8,
}

/// One member: who has the lock there, and its counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Member {
    pub(crate) holder: Option<u8>,
    /// The token of the lease.
    pub(crate) count: u8,
    /// What the next grant goes beyond; other names may share it.
    pub(crate) counter: u8,
    pub(crate) links: [InFlight; MAX_HOLDERS],
}

/// The messages in flight between one holder and one member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct InFlight {
    /// Number of times that a request can still arrive.
    pub(crate) requests: u8,
    /// The count of the last reply; 0 for none.
    pub(crate) reply: u8,
    /// The number of a raise that can still arrive; 0 for none.
    pub(crate) raise: u8,
    pub(crate) acknowledged: bool,
    pub(crate) release: bool,
}

/// One attempt of a client to acquire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Attempt {
    pub(crate) phase: Phase,
    /// The greatest token that had been given out when it began.
    pub(crate) floor: u8,
    /// The token that it chose.
    pub(crate) token: u8,
    /// The token that it was given.
    pub(crate) given: u8,
    pub(crate) asked_again: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Phase {
    #[default]
    Idle,
    Asking,
    Raising,
    Holding,
    Over,
}

impl Member {
    /// What the member answers to a request: the count of its lease, if this holder has it or it
    /// was free.
    pub(crate) fn request(&mut self, holder: usize) -> Option<u8> {
        match self.holder {
            Some(other) if usize::from(other) != holder => return None,
            Some(_) => {}
            None => {
                self.holder = Some(holder as u8);
                self.count = self.counter + 1;
                self.counter += 1;
            }
        }
        Some(self.count)
    }

    /// Whether the member acknowledges the raise.
    pub(crate) fn raise(&mut self, holder: usize, token: u8, rule: Rule) -> bool {
        let has_it = self.holder.is_some_and(|other| usize::from(other) == holder);
        if rule == Rule::AnyHolderIsRaised {
            let raised = self.counter <= token;
            self.counter = self.counter.max(token);
            if raised && has_it {
                self.count = token;
            }
            return raised;
        }
        if !has_it || (self.count > token && rule != Rule::GreaterCountsAcknowledge) {
            return false;
        }
        self.count = self.count.max(token);
        if rule != Rule::LeaseIsRaisedAlone {
            self.counter = self.counter.max(token);
        }
        true
    }

    /// The lease ends.
    pub(crate) fn end(&mut self, rule: Rule) {
        self.holder = None;
        self.count = 0;
        if rule == Rule::CounterEndsWithTheLease {
            self.counter = 0;
        }
    }

    /// Its data are gone, and what was under way to it still is.
    pub(crate) fn lose(&mut self) {
        (self.holder, self.count, self.counter) = (None, 0, 0);
    }
}

impl State {
    pub(crate) fn greatest_given(&self) -> u8 {
        self.given.checked_ilog2().unwrap_or(0) as u8
    }

    /// Gives the token that was chosen to this holder.
    pub(crate) fn grant(&mut self, holder: usize) {
        let attempt = &mut self.attempts[holder];
        let bit = 1 << attempt.token;
        if attempt.token != attempt.given {
            let is_new = self.given & bit == 0 && attempt.token > attempt.floor && attempt.token > attempt.given;
            self.broken |= !is_new;
        }
        self.given |= bit;
        attempt.given = attempt.token;
        attempt.phase = Phase::Holding;
    }

    /// Forgets messages that can do nothing any more, and puts the members in order.
    pub(crate) fn drop_dead_messages(&mut self, rule: Rule) {
        for member in &mut self.members {
            for (holder, link) in member.links.iter_mut().enumerate() {
                let phase = self.attempts[holder].phase;
                let may_have_it = link.requests > 0 || member.holder == Some(holder as u8);
                if phase != Phase::Raising {
                    link.acknowledged = false;
                }
                if !may_have_it {
                    link.release = false;
                    if rule != Rule::AnyHolderIsRaised {
                        link.raise = 0;
                    }
                }
            }
        }
        self.members.sort_unstable();
    }

    /// This state, or another that differs from it by the names of its holders alone: the same one
    /// for all of those.
    pub(crate) fn canonical(self, orders: &[[u8; MAX_HOLDERS]]) -> State {
        let renamed = |order: &[u8; MAX_HOLDERS]| {
            let mut renamed = self.clone();
            for (holder, name) in order.iter().map(|name| usize::from(*name)).enumerate() {
                renamed.attempts[name] = self.attempts[holder];
                for (new, old) in renamed.members.iter_mut().zip(&self.members) {
                    new.links[name] = old.links[holder];
                    new.holder = old.holder.map(|holder| order[usize::from(holder)]);
                }
            }
            renamed.members.sort_unstable();
            renamed
        };
        match orders.iter().skip(1).map(renamed).min() {
            Some(other) => self.min(other),
            None => self,
        }
    }

    pub(crate) fn holding(&self) -> usize {
        self.attempts.iter().filter(|attempt| attempt.phase == Phase::Holding).count()
    }
}
