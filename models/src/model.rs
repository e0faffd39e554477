//! [`Model`]: the actions, and the next state of each.

use stateright::Property;

use crate::Rule;
use crate::state::{Attempt, InFlight, MAJORITY, MAX_HOLDERS, MEMBERS, Member, Phase, State};

/// The model and its bounds.
#[derive(Clone, Debug)]
pub struct Model {
    /// The rule by which tokens are made.
    pub rule: Rule,
    /// Number of clients.
    pub clients: usize,
    /// Number of acquires of each client, each by a fresh holder; clients times attempts are 4 at
    /// most.
    pub attempts: usize,
    /// Number of arrivals of each request of the first client; requests of the others arrive once.
    pub copies: u8,
    /// Whether the first client, when it was given a token, may ask again once, as after a reply
    /// that was lost.
    pub asks_again: bool,
    /// Number of times that a member loses its data.
    pub losses: u8,
    /// Number of times that another name raises a counter.
    pub bumps: u8,
    /// The greatest counter of the search.
    pub greatest: u8,
}

/// A step of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Begin { holder: usize },
    Request { holder: usize, member: usize, answered: bool },
    Choose { holder: usize },
    Raise { holder: usize, member: usize, answered: bool },
    Hold { holder: usize },
    AskAgain { holder: usize },
    End { holder: usize },
    Release { holder: usize, member: usize },
    Expire { member: usize },
    Lose { member: usize },
    Bump { member: usize },
}

impl Model {
    fn holders(&self) -> usize {
        self.clients * self.attempts
    }

    /// The permutations of holders that make no difference.
    fn symmetries(&self) -> &'static [[u8; MAX_HOLDERS]] {
        match (self.clients, self.attempts, self.copies) {
            (2, 1, 1) if !self.asks_again => &[[0, 1, 2, 3], [1, 0, 2, 3]],
            (3, 1, 1) => &[[0, 1, 2, 3], [0, 2, 1, 3], [1, 0, 2, 3], [1, 2, 0, 3], [2, 0, 1, 3], [2, 1, 0, 3]],
            (3, 1, _) => &[[0, 1, 2, 3], [0, 2, 1, 3]],
            _ => &[[0, 1, 2, 3]],
        }
    }

    fn message_actions(&self, state: &State, holder: usize, member: usize, actions: &mut Vec<Action>) {
        let (at, link) = (&state.members[member], &state.members[member].links[holder]);
        let has_it = at.holder == Some(holder as u8);
        let phase = state.attempts[holder].phase;
        if link.requests > 0 && (at.holder.is_none() || has_it) {
            if phase == Phase::Asking {
                actions.push(Action::Request { holder, member, answered: true });
            }
            // Unanswered at a member that this holder has anyway, it does nothing.
            if !has_it {
                actions.push(Action::Request { holder, member, answered: false });
            }
        }
        let mut probe = *at;
        if link.raise > 0 && probe.raise(holder, link.raise, self.rule) {
            if phase == Phase::Raising && state.attempts[holder].token == link.raise {
                actions.push(Action::Raise { holder, member, answered: true });
            }
            actions.push(Action::Raise { holder, member, answered: false });
        }
        if link.release && has_it {
            actions.push(Action::Release { holder, member });
        }
    }

    fn choose(&self, state: &mut State, holder: usize) {
        let counts: Vec<u8> = state.members.iter().map(|m| m.links[holder].reply).filter(|reply| *reply > 0).collect();
        let attempt = &mut state.attempts[holder];
        // The token stays if a majority has had no other holder since.
        let stays = counts.iter().filter(|count| **count <= attempt.given).count() >= MAJORITY;
        attempt.token = if stays { attempt.given } else { counts.iter().copied().max().unwrap_or(0) };
        attempt.phase = Phase::Raising;
        let token = attempt.token;
        if self.rule == Rule::NoSecondPhase {
            return state.grant(holder);
        }
        for member in &mut state.members {
            let link = &mut member.links[holder];
            let asked = link.reply > 0 && link.reply <= token;
            link.raise = if asked { token } else { 0 };
            link.reply = 0;
        }
    }

    fn count_members(&self, state: &State, holder: usize, of: impl Fn(&InFlight) -> bool) -> usize {
        state.members.iter().filter(|member| of(&member.links[holder])).count()
    }
}

impl stateright::Model for Model {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        assert!(self.holders() <= MAX_HOLDERS, "a model has {MAX_HOLDERS} holders at most");
        vec![State {
            members: [Member::default(); MEMBERS],
            attempts: [Attempt::default(); MAX_HOLDERS],
            given: 0,
            broken: false,
            losses: self.losses,
            bumps: self.bumps,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken {
            return;
        }
        for holder in 0..self.holders() {
            let is_first = holder % self.attempts == 0;
            match state.attempts[holder].phase {
                Phase::Idle if is_first || state.attempts[holder - 1].phase == Phase::Over => {
                    actions.push(Action::Begin { holder });
                }
                Phase::Asking if self.count_members(state, holder, |link| link.reply > 0) >= MAJORITY => {
                    actions.push(Action::Choose { holder });
                }
                Phase::Raising => {
                    let enough = if self.rule == Rule::OneAcknowledges { 1 } else { MAJORITY };
                    if self.count_members(state, holder, |link| link.acknowledged) >= enough {
                        actions.push(Action::Hold { holder });
                    }
                }
                Phase::Holding if self.asks_again && holder == 0 && !state.attempts[holder].asked_again => {
                    actions.push(Action::AskAgain { holder });
                }
                _ => {}
            }
            if matches!(state.attempts[holder].phase, Phase::Asking | Phase::Raising | Phase::Holding) {
                actions.push(Action::End { holder });
            }
            for member in 0..MEMBERS {
                self.message_actions(state, holder, member, actions);
            }
        }
        for member in 0..MEMBERS {
            if state.members[member].holder.is_some() {
                actions.push(Action::Expire { member });
            }
            if state.losses > 0 {
                actions.push(Action::Lose { member });
            }
            if state.bumps > 0 {
                actions.push(Action::Bump { member });
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Begin { holder } => {
                state.attempts[holder].phase = Phase::Asking;
                state.attempts[holder].floor = state.greatest_given();
                for member in &mut state.members {
                    member.links[holder].requests = if holder == 0 { self.copies } else { 1 };
                }
            }
            Action::Request { holder, member, answered } => {
                let member = &mut state.members[member];
                let count = member.request(holder)?;
                member.links[holder].requests -= 1;
                if answered {
                    member.links[holder].reply = count;
                }
            }
            Action::Choose { holder } => self.choose(&mut state, holder),
            Action::Raise { holder, member, answered } => {
                let member = &mut state.members[member];
                let token = std::mem::take(&mut member.links[holder].raise);
                let acknowledged = member.raise(holder, token, self.rule);
                member.links[holder].acknowledged |= acknowledged && answered;
            }
            Action::Hold { holder } => state.grant(holder),
            Action::AskAgain { holder } => {
                state.attempts[holder].asked_again = true;
                state.attempts[holder].phase = Phase::Asking;
                for member in &mut state.members {
                    let link = &mut member.links[holder];
                    (link.requests, link.reply, link.acknowledged) = (link.requests.max(1), 0, false);
                }
            }
            Action::End { holder } => {
                let attempt = &mut state.attempts[holder];
                *attempt = Attempt { phase: Phase::Over, ..Attempt::default() };
                for member in &mut state.members {
                    let link = &mut member.links[holder];
                    (link.reply, link.acknowledged, link.release) = (0, false, true);
                }
            }
            Action::Release { holder, member } => {
                state.members[member].end(self.rule);
                state.members[member].links[holder].release = false;
            }
            Action::Expire { member } => state.members[member].end(self.rule),
            Action::Lose { member } => {
                state.losses -= 1;
                state.members[member].lose();
            }
            Action::Bump { member } => {
                state.bumps -= 1;
                state.members[member].counter += 1;
            }
        }
        state.drop_dead_messages(self.rule);
        let state = state.canonical(self.symmetries());
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("tokens are unique and rise", |_: &Model, state: &State| !state.broken),
            Property::sometimes("two believe that they hold", |_: &Model, state: &State| state.holding() >= 2),
        ]
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.members.iter().all(|member| member.counter <= self.greatest)
    }
}
