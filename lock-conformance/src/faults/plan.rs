//! [`Plan`]: the scripted and random disturbances of a [`Faulty`](super::Faulty) store.

use std::collections::{HashMap, VecDeque};

use super::disturbance::{Call, Disturbance, Mix};
use crate::random::Random;

/// The disturbances to come, and the number of calls so far. A script goes first, then what is set
/// for every call, then the random schedule.
#[derive(Default)]
pub(super) struct Plan {
    script: HashMap<Call, VecDeque<Disturbance>>,
    always: HashMap<Call, Disturbance>,
    random: Option<(Random, Mix)>,
    counts: HashMap<Call, usize>,
}

impl Plan {
    pub(super) fn random(seed: u64, mix: Mix) -> Plan {
        Plan { random: Some((Random::new(seed), mix)), ..Plan::default() }
    }

    pub(super) fn script(&mut self, call: Call, disturbances: impl IntoIterator<Item = Disturbance>) {
        self.script.entry(call).or_default().extend(disturbances);
    }

    pub(super) fn always(&mut self, call: Call, disturbance: Disturbance) {
        self.always.insert(call, disturbance);
    }

    pub(super) fn clear(&mut self) {
        (self.script, self.always, self.random) = Default::default();
    }

    pub(super) fn count(&self, call: Call) -> usize {
        self.counts.get(&call).copied().unwrap_or_default()
    }

    /// Counts a call, and decides its disturbance.
    pub(super) fn next(&mut self, call: Call) -> Disturbance {
        *self.counts.entry(call).or_default() += 1;
        if let Some(disturbance) = self.script.get_mut(&call).and_then(VecDeque::pop_front) {
            return disturbance;
        }
        if let Some(disturbance) = self.always.get(&call) {
            return *disturbance;
        }
        self.random.as_mut().map_or(Disturbance::Pass, |(random, mix)| mix.draw(random))
    }
}
