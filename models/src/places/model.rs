//! [`Model`]: the actions, and the next state of each.

use stateright::Property;

use super::Rule;
use super::member::{Data, Goal, Member, Roll};

/// Limits of a model.
const MAX_MEMBERS: usize = 5;
const MAX_CLIENTS: usize = 3;

/// The model and its bounds.
#[derive(Clone, Debug)]
pub struct Model {
    /// The rule that decides who has a place.
    pub rule: Rule,
    /// Number of members.
    pub members: usize,
    /// Number of members that have formed a quorum before; 0 for none.
    pub founders: usize,
    /// Greatest number of members that a client sees.
    pub sees: u32,
    /// Number of tries of each client to open the quorum.
    pub tries: &'static [u8],
    /// Number of times that a member loses its data.
    pub losses: u8,
    /// Whether members promise to keep what they know, so that who lost its data is left to an
    /// operator.
    pub lasting: bool,
}

/// A state of the model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    members: [Member; MAX_MEMBERS],
    clients: [Client; MAX_CLIENTS],
    losses: u8,
    next_data: u8,
    next_realm: u8,
    /// For each realm, the data that have a place in some published roll.
    places: [Data; 8],
    /// The realms that were opened, a bit each.
    opened: u8,
    /// A member has joined that missed the forming.
    joined: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Client {
    tries: u8,
    /// The goal of its try; `None` between two tries.
    next: Option<Goal>,
    proposal: (u8, u8),
    /// The data of the members that it saw; 0 of those that it did not.
    seen: [Data; MAX_MEMBERS],
    /// The members that have promised, a bit each.
    promised: u8,
    /// The latest roll that one of them had accepted.
    latest: Option<((u8, u8), Roll)>,
    roll: Option<Roll>,
    /// The members that have accepted.
    accepted: u8,
    is_decided: bool,
}

/// A step of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A client looks at these members, a bit each, opens the quorum if it can, and begins to
    /// decide what it must.
    Look {
        client: usize,
        at: u8,
    },
    Promise {
        client: usize,
        member: usize,
    },
    Propose {
        client: usize,
    },
    /// Whether its answer arrives makes no difference: what is decided is, also if its client does
    /// not hear of it.
    Accept {
        client: usize,
        member: usize,
    },
    Teach {
        client: usize,
        member: usize,
    },
    /// A client stops wherever it is, and can try again. One that never does is as one that goes on
    /// much later.
    Stop {
        client: usize,
    },
    Lose {
        member: usize,
    },
}

impl Model {
    fn majority(&self) -> u32 {
        self.members as u32 / 2 + 1
    }

    fn places(&self) -> u32 {
        self.members as u32
    }

    fn is_acceptor(&self, next: Goal, data: Data) -> bool {
        match next {
            Goal::Join(roll, _) => self.rule == Rule::NewcomersDecide || roll.founders & data != 0,
            Goal::Form(_) => true,
        }
    }

    fn is_majority(&self, next: Goal, by: u8) -> bool {
        match next {
            Goal::Form(_) => by.count_ones() >= self.majority(),
            Goal::Join(..) if self.rule == Rule::NewcomersDecide => by.count_ones() >= self.majority(),
            Goal::Join(..) if self.rule == Rule::OneDecides => by > 0,
            Goal::Join(roll, _) => by.count_ones() > roll.founders.count_ones() / 2,
        }
    }

    /// What the members that are seen make of their quorum: the roll by which it stands, and what
    /// must be decided.
    fn evaluate(&self, seen: &[Member]) -> (Option<Roll>, Option<Goal>) {
        let data = seen.iter().fold(0, |data, member| data | member.data);
        let form = |generation| (seen.len() as u32 >= self.majority()).then_some(Goal::Form(generation));
        let seated = |roll: &Roll| (roll.places & data).count_ones();
        let mut rolls: Vec<Roll> = seen.iter().filter_map(|member| member.roll).collect();
        rolls.sort_by_key(|roll| std::cmp::Reverse((roll.generation, roll.places.count_ones(), roll.realm)));
        let stands = rolls.iter().find(|roll| seated(roll) >= self.majority()).copied();
        let Some(roll) = stands.or(rolls.first().copied()) else { return (None, form(1)) };
        let new = seen.iter().filter(|member| roll.places & member.data == 0 && member.generation() < roll.generation);
        let newcomers = new.fold(0, |data, member| data | member.data);
        let joining = Roll { places: 0, ..roll }.joined_by(newcomers, self.places() - roll.places.count_ones()).places;
        let founders = (roll.founders & data).count_ones();
        let decided = match self.rule {
            Rule::NewcomersDecide => true,
            Rule::OneDecides => founders > 0,
            _ => founders > roll.founders.count_ones() / 2,
        };
        if self.rule == Rule::PlacesAreGivenAgain && newcomers != 0 && decided {
            return (stands, Some(Goal::Join(roll, newcomers)));
        }
        if joining != 0 && decided && seated(&roll) + joining.count_ones() >= self.majority() {
            return (stands, Some(Goal::Join(roll, joining)));
        }
        let latest = seen.iter().map(Member::generation).max().unwrap_or(0);
        let forms = !self.lasting && (stands.is_none() || newcomers != 0 && joining == 0);
        (stands, if forms { form(latest + 1) } else { None })
    }

    fn open(&self, state: &mut State, client: usize, at: u8) {
        let seen: Vec<Member> = self.bits(at).map(|member| state.members[member]).collect();
        let (stands, next) = self.evaluate(&seen);
        if let Some(roll) = stands {
            state.publish(roll);
            state.opened |= 1 << roll.realm;
        }
        let round = seen.iter().map(|member| member.forming.promised.0.max(member.joining.promised.0)).max();
        let proposer = &mut state.clients[client];
        let tries = proposer.tries - 1;
        *proposer = Client { tries, next, proposal: (round.unwrap_or(0) + 1, client as u8), ..Client::default() };
        if next.is_some() {
            for member in self.bits(at) {
                proposer.seen[member] = state.members[member].data;
            }
            let unasked = match next {
                Some(Goal::Form(_)) => self.rule == Rule::FormsUnasked,
                Some(Goal::Join(..)) => self.rule == Rule::JoinsUnasked,
                None => false,
            };
            if unasked {
                proposer.promised = at;
                self.propose(state, client);
            }
        }
    }

    fn bits(&self, of: u8) -> impl Iterator<Item = usize> + use<> {
        (0..self.members).filter(move |at| of & (1 << at) != 0)
    }

    fn propose(&self, state: &mut State, client: usize) {
        let proposer = &mut state.clients[client];
        let latest = proposer.latest.map(|(_, roll)| roll);
        let roll = match proposer.next {
            Some(Goal::Form(generation)) => {
                match latest.filter(|roll| roll.generation >= generation && self.rule != Rule::FormsAnew) {
                    Some(roll) => roll,
                    None => {
                        let founders = self.bits(proposer.promised).fold(0, |data, at| data | proposer.seen[at]);
                        let realm = state.next_realm;
                        state.next_realm += 1;
                        Roll { generation, realm, founders, places: founders }
                    }
                }
            }
            Some(Goal::Join(roll, joining)) if self.rule == Rule::PlacesAreGivenAgain => {
                let seen = proposer.seen.iter().fold(0, |data, seen| data | seen);
                let kept = roll.places & seen;
                Roll { places: kept, ..roll }.joined_by(joining, self.places())
            }
            Some(Goal::Join(roll, joining)) => latest.unwrap_or(roll).joined_by(joining, self.places()),
            None => return,
        };
        proposer.roll = Some(roll);
        proposer.latest = None;
    }
}

impl State {
    /// Publishes a roll.
    fn publish(&mut self, roll: Roll) {
        self.places[usize::from(roll.realm)] |= roll.places;
        self.joined |= roll.places != roll.founders;
    }
}

impl stateright::Model for Model {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        assert!(
            self.members <= MAX_MEMBERS && self.tries.len() <= MAX_CLIENTS,
            "a model has {MAX_MEMBERS} members at most"
        );
        let mut members = [Member::default(); MAX_MEMBERS];
        let founders = (1 << self.founders) - 1;
        for (at, member) in members.iter_mut().enumerate().take(self.members) {
            member.data = 1 << at;
            if at < self.founders {
                member.roll = Some(Roll { generation: 1, realm: 0, founders, places: founders });
            }
        }
        let mut clients = [Client::default(); MAX_CLIENTS];
        clients.iter_mut().zip(self.tries).for_each(|(client, tries)| client.tries = *tries);
        let next_realm = u8::from(self.founders > 0);
        let (losses, next_data) = (self.losses, self.members as u8);
        vec![State { members, clients, losses, next_data, next_realm, places: [0; 8], opened: 0, joined: false }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (client, proposer) in state.clients.iter().enumerate().take(self.tries.len()) {
            let Some(next) = proposer.next else {
                if proposer.tries > 0 {
                    let some = 1..(1_u8 << self.members);
                    actions.extend(
                        some.filter(|at| (self.majority()..=self.sees).contains(&at.count_ones()))
                            .map(|at| Action::Look { client, at }),
                    );
                }
                continue;
            };
            if proposer.tries > 0 {
                actions.push(Action::Stop { client });
            }
            for member in 0..self.members {
                let is_seen = proposer.seen[member] == state.members[member].data;
                let bit = 1 << member;
                if proposer.is_decided {
                    actions.push(Action::Teach { client, member });
                } else if !is_seen || !self.is_acceptor(next, state.members[member].data) {
                } else if proposer.roll.is_none() && proposer.promised & bit == 0 {
                    actions.push(Action::Promise { client, member });
                } else if proposer.roll.is_some() && proposer.promised & !proposer.accepted & bit != 0 {
                    actions.push(Action::Accept { client, member });
                }
            }
            if proposer.roll.is_none() && self.is_majority(next, proposer.promised) {
                actions.push(Action::Propose { client });
            }
        }
        if state.losses > 0 {
            actions.extend((0..self.members).map(|member| Action::Lose { member }));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Look { client, at } => self.open(&mut state, client, at),
            Action::Promise { client, member } => {
                let proposer = &mut state.clients[client];
                let part = state.members[member].acceptor(proposer.next?)?;
                if part.promise(proposer.proposal) {
                    proposer.promised |= 1 << member;
                    proposer.latest = proposer.latest.max(part.accepted);
                }
            }
            Action::Propose { client } => self.propose(&mut state, client),
            Action::Accept { client, member } => {
                let proposer = &mut state.clients[client];
                let (next, roll) = (proposer.next?, proposer.roll?);
                let part = state.members[member].acceptor(next)?;
                if part.accept(proposer.proposal, roll) {
                    proposer.accepted |= 1 << member;
                    proposer.is_decided = self.is_majority(next, proposer.accepted);
                }
                if state.clients[client].is_decided {
                    let seen = state.clients[client].seen.iter().fold(0, |data, seen| data | seen);
                    state.publish(roll);
                    if (roll.places & seen).count_ones() >= self.majority() {
                        state.opened |= 1 << roll.realm;
                    }
                }
            }
            Action::Teach { client, member } => {
                let roll = state.clients[client].roll?;
                if roll.places & state.members[member].data != 0 {
                    state.members[member].learn(roll);
                }
            }
            Action::Stop { client } => {
                state.clients[client] = Client { tries: state.clients[client].tries, ..Client::default() };
            }
            Action::Lose { member } => {
                state.losses -= 1;
                state.members[member] = Member { data: 1 << state.next_data, ..Member::default() };
                state.next_data += 1;
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no realm has more places than members", |model: &Model, state: &State| {
                state.places.iter().all(|places| places.count_ones() <= model.places())
            }),
            // Members that promise nothing form a quorum anew where the old one does not stand.
            Property::always("one realm is opened while nobody loses anything", |model: &Model, state: &State| {
                !model.lasting || state.losses < model.losses || state.opened.count_ones() <= 1
            }),
            Property::sometimes("a member joins", |_: &Model, state: &State| state.joined),
            Property::sometimes("a quorum is opened", |_: &Model, state: &State| state.opened != 0),
        ]
    }
}
