//! Gathers the records of all members at once.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::call::explained;
use super::present::PresentMember;
use super::roster::Roster;
use crate::words::{Effect, Error, ErrorKind};

/// Time within which a majority has to answer when a quorum is opened. It is shorter than the
/// core's time-out for connecting, whose error would not name the missing members.
const OPEN_TIMEOUT: Duration = Duration::from_secs(4);
/// Further time for the other members after a majority has answered; at least as long as the
/// majority took.
const STRAGGLER_TIMEOUT: Duration = Duration::from_millis(250);
/// The same if the quorum is not yet formed: a member that misses the forming has to join.
const FORMING_STRAGGLER_TIMEOUT: Duration = Duration::from_secs(1);

impl Roster {
    /// The members that answer, in their order, and for each other member the reason.
    pub(super) async fn gather(&self) -> (Vec<PresentMember>, Vec<Option<Error>>) {
        let mut asked = JoinSet::new();
        for (at, slot) in self.members.iter().enumerate() {
            let (open, member, called) = (slot.store.get().cloned(), slot.member.clone(), self.describe(at));
            asked.spawn(async move {
                let answer = async {
                    let store = match open {
                        Some(store) => store,
                        None => member.open().await?,
                    };
                    PresentMember::ask(at, store).await
                };
                (at, answer.await.map_err(|error| explained(&called, &error)))
            });
        }
        let started = Instant::now();
        let mut until = started + OPEN_TIMEOUT;
        let mut present: Vec<PresentMember> = Vec::new();
        let mut troubles: Vec<_> = (0..self.len())
            .map(|at| {
                let text = format!("{} has not answered", self.describe(at));
                Some(Error::new(ErrorKind::TimedOut, Effect::None, text))
            })
            .collect();
        while let Ok(Some(answer)) = tokio::time::timeout_at(until, asked.join_next()).await {
            match answer {
                Ok((at, Ok(member))) => {
                    troubles[at] = None;
                    present.push(member);
                    if present.len() == self.majority {
                        let formed = present.iter().any(|member| member.record.roll.is_some());
                        let grace = if formed { STRAGGLER_TIMEOUT } else { FORMING_STRAGGLER_TIMEOUT };
                        until = until.min(Instant::now() + grace.max(started.elapsed()));
                    }
                }
                Ok((at, Err(error))) => troubles[at] = Some(error),
                Err(_) => {}
            }
        }
        present.sort_unstable_by_key(|member| member.at);
        (present, troubles)
    }
}
