//! The diagnosis of a [`Quorum`]: its own findings, and those of its members.

use std::time::Duration;

use super::Quorum;
use super::call::bounded;
use crate::contract::Finding;
use crate::words::Result;

/// Time limit for the diagnosis of one member. It is longer than that of a call about a lock, since
/// no lease depends on it, and far shorter than the time for one call to the store.
const MEMBER_TIMEOUT: Duration = Duration::from_secs(2);

impl Quorum {
    /// The codes of its own findings. Every answer has each of them, and besides the findings of
    /// the members, each about its member.
    pub const FINDING_CODES: &'static [&'static str] = &["majority", "realm", "vote"];

    pub(super) async fn findings(&self) -> Vec<Finding> {
        let mut answers = self
            .each(|at, store| async move { bounded(at, MEMBER_TIMEOUT, async move { store?.diagnose().await }).await });
        let mut members: Vec<_> = (0..self.len()).map(|_| Ok(Vec::new())).collect();
        while let Some((at, answer)) = answers.recv().await {
            members[at] = answer;
        }
        let (mut votes, mut findings) = (0, Vec::new());
        for (at, answer) in members.into_iter().enumerate() {
            let vote = self.vote_finding(at, &answer);
            votes += usize::from(vote.is_ok());
            let vote = vote.unwrap_or_else(|lacking| lacking);
            let own = std::iter::once(vote).chain(answer.unwrap_or_default());
            findings.extend(own.map(|finding| finding.about(self.roster.describe(at))));
        }
        findings.splice(0..0, [self.majority_finding(votes), self.realm_finding()]);
        findings
    }

    /// The finding about the vote of one member: `Err` if it has none.
    fn vote_finding(&self, at: usize, answer: &Result<Vec<Finding>>) -> Result<Finding, Finding> {
        match answer.as_ref().err().cloned().or_else(|| self.roster.trouble(at)) {
            Some(error) => Err(Finding::warning("vote", format!("it has no vote: {error}"))),
            None => Ok(Finding::info("vote", "it answers and has a vote")),
        }
    }

    fn majority_finding(&self, votes: usize) -> Finding {
        let text = format!("{votes} of {} members answer and have a vote; {} must", self.len(), self.majority());
        match votes {
            votes if votes < self.majority() => Finding::error("majority", text),
            votes if votes < self.len() => Finding::warning("majority", text),
            _ => Finding::info("majority", text),
        }
    }

    fn realm_finding(&self) -> Finding {
        let rules = self.rules();
        match rules.has_tokens && rules.membership.roll.is_none() {
            true => Finding::error("realm", rules.membership.refusal().to_string()),
            false => Finding::info("realm", rules.membership.realm.to_string()),
        }
    }
}
