//! [`Model`]: what can happen next.

use stateright::Property;

use super::Rule;
use super::member::{Data, Member, Next, Roll};

/// The most members and clients that a model can have.
const MOST: usize = 5;
const MOST_CLIENTS: usize = 3;

/// The model, and how far it goes.
#[derive(Clone, Debug)]
pub struct Model {
    /// How it is decided who has a place.
    pub rule: Rule,
    /// How many members there are.
    pub members: usize,
    /// How many of them have formed a quorum before; 0 for none.
    pub founders: usize,
    /// How many members a client sees at most.
    pub sees: u32,
    /// How often each client looks at the members, and tries to decide what has to be.
    pub tries: &'static [u8],
    /// How many times a member loses its data.
    pub losses: u8,
    /// Whether members promise to keep what they know, so that who lost its data is left to an operator.
    pub lasting: bool,
}

/// One moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    members: [Member; MOST],
    clients: [Client; MOST_CLIENTS],
    losses: u8,
    next_data: u8,
    next_realm: u8,
    /// By realm, the data that somebody was told to have a place.
    places: [Data; 8],
    /// The realms that were opened, a bit each.
    opened: u8,
    /// A member has joined that missed the forming.
    joined: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Client {
    tries: u8,
    /// What it decides; `None` between two tries.
    next: Option<Next>,
    proposal: (u8, u8),
    /// The data of the members that it saw; 0 of those that it did not.
    seen: [Data; MOST],
    /// The members that have promised, a bit each.
    promised: u8,
    /// What the latest of them had accepted.
    latest: Option<((u8, u8), Roll)>,
    roll: Option<Roll>,
    /// The members that have accepted.
    accepted: u8,
    is_decided: bool,
}

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A client looks at these members, a bit each, opens the quorum if it can, and begins to decide what it must.
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
    /// Whether its answer arrives makes no difference: what is decided is, also if its client does not hear of it.
    Accept {
        client: usize,
        member: usize,
    },
    Teach {
        client: usize,
        member: usize,
    },
    /// A client stops wherever it is, and can try again. One that never does is as one that goes on much later.
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

    fn has_part(&self, next: Next, data: Data) -> bool {
        match next {
            Next::Join(roll, _) => self.rule == Rule::NewcomersDecide || roll.founders & data != 0,
            Next::Form(_) => true,
        }
    }

    fn is_decided_by(&self, next: Next, by: u8) -> bool {
        match next {
            Next::Form(_) => by.count_ones() >= self.majority(),
            Next::Join(..) if self.rule == Rule::NewcomersDecide => by.count_ones() >= self.majority(),
            Next::Join(..) if self.rule == Rule::OneDecides => by > 0,
            Next::Join(roll, _) => by.count_ones() > roll.founders.count_ones() / 2,
        }
    }

    /// What the members that are seen make of their quorum: the roll by which it stands, and what must be decided.
    fn judge(&self, seen: &[Member]) -> (Option<Roll>, Option<Next>) {
        let data = seen.iter().fold(0, |data, member| data | member.data);
        let form = |generation| (seen.len() as u32 >= self.majority()).then_some(Next::Form(generation));
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
            return (stands, Some(Next::Join(roll, newcomers)));
        }
        if joining != 0 && decided && seated(&roll) + joining.count_ones() >= self.majority() {
            return (stands, Some(Next::Join(roll, joining)));
        }
        let latest = seen.iter().map(Member::generation).max().unwrap_or(0);
        let forms = !self.lasting && (stands.is_none() || newcomers != 0 && joining == 0);
        (stands, if forms { form(latest + 1) } else { None })
    }

    fn look(&self, state: &mut State, client: usize, at: u8) {
        let seen: Vec<Member> = self.bits(at).map(|member| state.members[member]).collect();
        let (stands, next) = self.judge(&seen);
        if let Some(roll) = stands {
            state.tell(roll);
            state.opened |= 1 << roll.realm;
        }
        let round = seen.iter().map(|member| member.forming.promised.0.max(member.joining.promised.0)).max();
        let asks = &mut state.clients[client];
        let tries = asks.tries - 1;
        *asks = Client { tries, next, proposal: (round.unwrap_or(0) + 1, client as u8), ..Client::default() };
        if next.is_some() {
            for member in self.bits(at) {
                asks.seen[member] = state.members[member].data;
            }
            let unasked = match next {
                Some(Next::Form(_)) => self.rule == Rule::FormsUnasked,
                Some(Next::Join(..)) => self.rule == Rule::JoinsUnasked,
                None => false,
            };
            if unasked {
                asks.promised = at;
                self.propose(state, client);
            }
        }
    }

    fn bits(&self, of: u8) -> impl Iterator<Item = usize> + use<> {
        (0..self.members).filter(move |at| of & (1 << at) != 0)
    }

    fn propose(&self, state: &mut State, client: usize) {
        let asks = &mut state.clients[client];
        let latest = asks.latest.map(|(_, roll)| roll);
        let roll = match asks.next {
            Some(Next::Form(generation)) => {
                match latest.filter(|roll| roll.generation >= generation && self.rule != Rule::FormsAnew) {
                    Some(roll) => roll,
                    None => {
                        let founders = self.bits(asks.promised).fold(0, |data, at| data | asks.seen[at]);
                        let realm = state.next_realm;
                        state.next_realm += 1;
                        Roll { generation, realm, founders, places: founders }
                    }
                }
            }
            Some(Next::Join(roll, joining)) if self.rule == Rule::PlacesAreGivenAgain => {
                let seen = asks.seen.iter().fold(0, |data, seen| data | seen);
                let kept = roll.places & seen;
                Roll { places: kept, ..roll }.joined_by(joining, self.places())
            }
            Some(Next::Join(roll, joining)) => latest.unwrap_or(roll).joined_by(joining, self.places()),
            None => return,
        };
        asks.roll = Some(roll);
        asks.latest = None;
    }
}

impl State {
    /// Somebody is told of a roll.
    fn tell(&mut self, roll: Roll) {
        self.places[usize::from(roll.realm)] |= roll.places;
        self.joined |= roll.places != roll.founders;
    }
}

impl stateright::Model for Model {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        assert!(self.members <= MOST && self.tries.len() <= MOST_CLIENTS, "a model has {MOST} members at most");
        let mut members = [Member::default(); MOST];
        let founders = (1 << self.founders) - 1;
        for (at, member) in members.iter_mut().enumerate().take(self.members) {
            member.data = 1 << at;
            if at < self.founders {
                member.roll = Some(Roll { generation: 1, realm: 0, founders, places: founders });
            }
        }
        let mut clients = [Client::default(); MOST_CLIENTS];
        clients.iter_mut().zip(self.tries).for_each(|(client, tries)| client.tries = *tries);
        let next_realm = u8::from(self.founders > 0);
        let (losses, next_data) = (self.losses, self.members as u8);
        vec![State { members, clients, losses, next_data, next_realm, places: [0; 8], opened: 0, joined: false }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (client, asks) in state.clients.iter().enumerate().take(self.tries.len()) {
            let Some(next) = asks.next else {
                if asks.tries > 0 {
                    let some = 1..(1_u8 << self.members);
                    actions.extend(
                        some.filter(|at| (self.majority()..=self.sees).contains(&at.count_ones()))
                            .map(|at| Action::Look { client, at }),
                    );
                }
                continue;
            };
            if asks.tries > 0 {
                actions.push(Action::Stop { client });
            }
            for member in 0..self.members {
                let is_seen = asks.seen[member] == state.members[member].data;
                let bit = 1 << member;
                if asks.is_decided {
                    actions.push(Action::Teach { client, member });
                } else if !is_seen || !self.has_part(next, state.members[member].data) {
                } else if asks.roll.is_none() && asks.promised & bit == 0 {
                    actions.push(Action::Promise { client, member });
                } else if asks.roll.is_some() && asks.promised & !asks.accepted & bit != 0 {
                    actions.push(Action::Accept { client, member });
                }
            }
            if asks.roll.is_none() && self.is_decided_by(next, asks.promised) {
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
            Action::Look { client, at } => self.look(&mut state, client, at),
            Action::Promise { client, member } => {
                let asks = &mut state.clients[client];
                let part = state.members[member].part(asks.next?)?;
                if part.promise(asks.proposal) {
                    asks.promised |= 1 << member;
                    asks.latest = asks.latest.max(part.accepted);
                }
            }
            Action::Propose { client } => self.propose(&mut state, client),
            Action::Accept { client, member } => {
                let asks = &mut state.clients[client];
                let (next, roll) = (asks.next?, asks.roll?);
                let part = state.members[member].part(next)?;
                if part.accept(asks.proposal, roll) {
                    asks.accepted |= 1 << member;
                    asks.is_decided = self.is_decided_by(next, asks.accepted);
                }
                if state.clients[client].is_decided {
                    let seen = state.clients[client].seen.iter().fold(0, |data, seen| data | seen);
                    state.tell(roll);
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
