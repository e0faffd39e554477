//! [`Record`] of its quorum that each member keeps.

use serde::{Deserialize, Serialize};

use super::roll::Roll;
use crate::words::{Error, ErrorKind, Result, random};

/// Record that each member keeps of its quorum: the last roll that it learned, and its part in the
/// next decisions. Members decide as in Paxos, with the clients as proposers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The last decided roll that it learned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) roll: Option<Roll>,
    /// The decision on the founders of a quorum.
    #[serde(default)]
    pub(super) forming: Decision,
    /// The decision on members that join the quorum of its roll.
    #[serde(default)]
    pub(super) joining: Decision,
}

/// A member's part in a decision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Decision {
    /// It accepts no proposal that is earlier than this.
    promised: Proposal,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) accepted: Option<(Proposal, Roll)>,
}

/// A proposal's place in the order of proposals: by round, and then by proposer.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Proposal {
    round: u64,
    by: String,
}

impl Record {
    /// Parses a record.
    pub(super) fn read(text: Option<&str>) -> Result<Record> {
        let Some(text) = text else { return Ok(Record::default()) };
        serde_json::from_str(text).map_err(|error| {
            let text = format!("what it keeps of its quorum cannot be read: {error}");
            Error::refused(ErrorKind::Protocol, text)
        })
    }

    pub(super) fn text(&self) -> String {
        serde_json::to_string(self).expect("BUG: a record is text, numbers and lists")
    }

    /// A proposal that is later than every one that these records have seen.
    pub(super) fn propose<'r>(records: impl Iterator<Item = &'r Record>) -> Proposal {
        let round = records.map(|record| record.forming.promised.round.max(record.joining.promised.round)).max();
        Proposal { round: round.unwrap_or(0) + 1, by: random::hex128() }
    }

    /// Learns a decided roll. A member never goes back to an earlier quorum, so that its promises
    /// and acceptances there can be forgotten.
    pub(super) fn learn(&mut self, roll: &Roll) {
        let same = self.roll.as_ref().is_some_and(|known| known.realm == roll.realm);
        let later = self.roll.as_ref().is_none_or(|known| match same {
            true => known.age(roll).is_lt(),
            false => known.generation < roll.generation,
        });
        if later {
            self.roll = Some(roll.clone());
            if !same {
                self.joining = Decision::default();
            }
        }
    }

    /// Generation of the quorum that it belongs to; 0 for none.
    pub(super) fn generation(&self) -> u64 {
        self.roll.as_ref().map_or(0, |roll| roll.generation)
    }

    /// Its part in the decision on the founders of this generation; `None` if it already belongs to
    /// that generation or a later one.
    pub(super) fn forming(&mut self, generation: u64) -> Option<&mut Decision> {
        (self.generation() < generation).then_some(&mut self.forming)
    }

    /// Its part in the decision on members that join this quorum; `None` if it belongs to another.
    pub(super) fn joining(&mut self, roll: &Roll) -> Option<&mut Decision> {
        self.learn(roll);
        self.roll.as_ref().is_some_and(|known| known.realm == roll.realm).then_some(&mut self.joining)
    }
}

impl Decision {
    /// Promises to accept no earlier proposal. Returns false if it has promised a later one.
    pub(super) fn promise(&mut self, proposal: &Proposal) -> bool {
        let promises = self.promised <= *proposal;
        if promises {
            self.promised = proposal.clone();
        }
        promises
    }

    /// Accepts a roll. Returns false if it has promised a later proposal.
    pub(super) fn accept(&mut self, proposal: &Proposal, roll: &Roll) -> bool {
        let accepts = self.promise(proposal);
        if accepts {
            self.accepted = Some((proposal.clone(), roll.clone()));
        }
        accepts
    }
}
