//! [`Member`], with what it keeps: [`Roll`] and [`Decision`].

/// A set of data, a bit each.
pub(crate) type Data = u16;

/// Who has a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Roll {
    pub(crate) generation: u8,
    pub(crate) realm: u8,
    pub(crate) founders: Data,
    pub(crate) places: Data,
}

/// A member's part in a decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Acceptor {
    /// By round and client.
    pub(crate) promised: (u8, u8),
    pub(crate) accepted: Option<((u8, u8), Roll)>,
}

/// One member, with what it keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Member {
    /// The bit of its data; another one when it has lost them.
    pub(crate) data: Data,
    pub(crate) roll: Option<Roll>,
    pub(crate) forming: Acceptor,
    pub(crate) joining: Acceptor,
}

/// What is to be decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Goal {
    Form(u8),
    Join(Roll, Data),
}

impl Roll {
    fn age(&self) -> (u8, u32) {
        (self.generation, self.places.count_ones())
    }

    /// With as many of these as there are places.
    pub(crate) fn joined_by(mut self, joining: Data, of: u32) -> Roll {
        for bit in (0..Data::BITS).map(|at| 1 << at).filter(|bit| joining & bit != 0) {
            if self.places & bit == 0 && self.places.count_ones() < of {
                self.places |= bit;
            }
        }
        self
    }
}

impl Member {
    pub(crate) fn generation(&self) -> u8 {
        self.roll.map_or(0, |roll| roll.generation)
    }

    pub(crate) fn learn(&mut self, roll: Roll) {
        let same = self.roll.is_some_and(|known| known.realm == roll.realm);
        let later = self.roll.is_none_or(|known| match same {
            true => known.age() < roll.age(),
            false => known.generation < roll.generation,
        });
        if later {
            self.roll = Some(roll);
            if !same {
                self.joining = Acceptor::default();
            }
        }
    }

    pub(crate) fn acceptor(&mut self, next: Goal) -> Option<&mut Acceptor> {
        match next {
            Goal::Form(generation) => (self.generation() < generation).then_some(&mut self.forming),
            Goal::Join(roll, _) => {
                self.learn(roll);
                self.roll.is_some_and(|known| known.realm == roll.realm).then_some(&mut self.joining)
            }
        }
    }
}

impl Acceptor {
    pub(crate) fn promise(&mut self, proposal: (u8, u8)) -> bool {
        let promises = self.promised <= proposal;
        if promises {
            self.promised = proposal;
        }
        promises
    }

    pub(crate) fn accept(&mut self, proposal: (u8, u8), roll: Roll) -> bool {
        let accepts = self.promise(proposal);
        if accepts {
            self.accepted = Some((proposal, roll));
        }
        accepts
    }
}
