//! [`RequestSender`]: sends a batch of requests.

use std::collections::HashMap;
use std::sync::Arc;

use lock_core::{Claim, Result};

use super::queue::{PendingRequest, entry_of, reject};
use crate::error::{self, StepError};
use crate::pool::PooledConnection;
use crate::pruner::Pruner;
use crate::row::to_micros;
use crate::row_decoder::{ObservedRow, RowDecoder};
use crate::statement::Value;
use crate::statements::{SingleOrBatch, Statements};

/// Sends batches of requests.
#[derive(Debug)]
pub(super) struct RequestSender {
    statements: Arc<Statements>,
    decoder: Arc<RowDecoder>,
    pruner: Arc<Pruner>,
}

impl RequestSender {
    pub(super) fn new(statements: &Arc<Statements>, decoder: &Arc<RowDecoder>, pruner: &Arc<Pruner>) -> RequestSender {
        RequestSender { statements: statements.clone(), decoder: decoder.clone(), pruner: pruner.clone() }
    }

    /// Requests all of these locks, inserts the rows that are missing, and answers every caller.
    pub(super) async fn send(&self, connection: &mut PooledConnection, requests: Vec<PendingRequest>) {
        let missing = self.request(connection, &self.statements.request, group_by_name(requests)).await;
        if missing.is_empty() {
            return;
        }
        let count = missing.len();
        let lost = self.request(connection, &self.statements.insert, missing).await;
        let added = count - lost.len();
        // Another transaction inserted these rows first.
        lost.into_iter().for_each(|same_name| self.answer(same_name, None));
        self.pruner.maybe_prune(connection, added).await;
    }

    /// Runs the statement for each of these names and answers the callers; returns the names that
    /// have no row.
    ///
    /// Only the first request of a name is sent. The row that it saw is the answer to the others,
    /// which come right after it.
    async fn request(
        &self,
        connection: &mut PooledConnection,
        statement: &SingleOrBatch,
        groups: Vec<Vec<PendingRequest>>,
    ) -> Vec<Vec<PendingRequest>> {
        let (mut parts, mut missing) = (vec![groups], Vec::new());
        while let Some(mut part) = parts.pop() {
            let claims: Vec<_> = part.iter().map(|same_name| same_name[0].0.clone()).collect();
            match self.run(connection, statement, &claims).await {
                Ok(observed) => {
                    for (same_name, observed) in part.into_iter().zip(observed) {
                        match observed {
                            Some(observed) => self.answer(same_name, Some(&observed)),
                            None => missing.push(same_name),
                        }
                    }
                }
                // The batch was rolled back: each half is sent by itself.
                Err(failed) if failed.may_concern_one_entry && part.len() > 1 => {
                    let rest = part.split_off(part.len() / 2);
                    parts.extend([rest, part]);
                }
                Err(failed) => reject(part.into_iter().flatten(), &failed.error),
            }
        }
        missing
    }

    fn answer(&self, same_name: Vec<PendingRequest>, observed: Option<&ObservedRow>) {
        for (claim, sender) in same_name {
            // A caller that has gone was cancelled, and whoever cancelled it withdraws its claim.
            drop(sender.send(Ok(observed.and_then(|observed| self.decoder.attempt(&claim, observed)))));
        }
    }

    /// The row of each of these names, which are all different, after its claim was granted or not.
    async fn run(
        &self,
        connection: &mut PooledConnection,
        statement: &SingleOrBatch,
        claims: &[Claim],
    ) -> Result<Vec<Option<ObservedRow>>, StepError> {
        let (statement, values) = match claims {
            [claim] => (&statement.single, single_values(claim)),
            claims => (&statement.batch, batch_values(claims)),
        };
        let reply = connection.run(statement, &values).await?;
        let unexpected = || StepError::for_all(error::unexpected_reply(&reply.server, statement.action));
        let mut all: Vec<_> = claims.iter().map(|_| None).collect();
        for row in &reply.rows {
            let observed = self.decoder.decode(&reply, row).ok_or_else(unexpected)?;
            *entry_of(row, &mut all).ok_or_else(unexpected)? = Some(observed);
        }
        Ok(all)
    }
}

/// The requests grouped by name, in the order of arrival.
fn group_by_name(requests: Vec<PendingRequest>) -> Vec<Vec<PendingRequest>> {
    let mut positions = HashMap::new();
    let mut groups: Vec<Vec<PendingRequest>> = Vec::new();
    for request in requests {
        let position = *positions.entry(request.0.name().clone()).or_insert(groups.len());
        match groups.get_mut(position) {
            Some(group) => group.push(request),
            None => groups.push(vec![request]),
        }
    }
    groups
}

fn single_values(claim: &Claim) -> Vec<Value> {
    vec![
        Value::text(claim.name()),
        Value::text(claim.holder()),
        Value::Number(to_micros(claim.ttl())),
        Value::Text(info(claim)),
    ]
}

fn batch_values(claims: &[Claim]) -> Vec<Value> {
    let texts = |text: fn(&Claim) -> String| Value::Texts(claims.iter().map(text).collect());
    vec![
        texts(|claim| claim.name().to_string()),
        texts(|claim| claim.holder().to_string()),
        Value::Numbers(claims.iter().map(|claim| to_micros(claim.ttl())).collect()),
        texts(info),
    ]
}

fn info(claim: &Claim) -> String {
    serde_json::to_string(claim.info()).unwrap_or_default()
}
