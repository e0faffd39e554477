//! What is told of leases: tracing events, and metrics where the feature is on.
//!
//! Names of locks are in events, never in metrics: a metric per lock would be one per invoice.

use std::time::Duration;

use crate::{Claim, Error, LossReason, Waiting};

macro_rules! count {
    ($name:literal $(, $key:literal => $value:expr)*) => {{
        #[cfg(feature = "metrics")]
        metrics::counter!($name $(, $key => $value)*).increment(1);
    }};
}

macro_rules! record {
    ($name:literal, $time:expr) => {{
        #[cfg(feature = "metrics")]
        metrics::histogram!($name).record($time.as_secs_f64());
    }};
}

pub(crate) fn acquired(claim: &Claim, waited: Duration) {
    tracing::debug!(name = %claim.name(), holder = %claim.holder(), ?waited, "acquired");
    count!("leasehold_acquired_total");
    record!("leasehold_wait_seconds", waited);
}

pub(crate) fn waiting(claim: &Claim, held: &Waiting) {
    tracing::debug!(name = %claim.name(), holder = %claim.holder(), by = %held.by, "waiting");
}

pub(crate) fn contended(claim: &Claim) {
    tracing::debug!(name = %claim.name(), holder = %claim.holder(), "contended");
    count!("leasehold_contended_total");
}

pub(crate) fn retrying(claim: &Claim, error: &Error) {
    tracing::warn!(name = %claim.name(), holder = %claim.holder(), %error, "the store did not answer, asking again");
    count!("leasehold_retries_total");
}

pub(crate) fn renewed(held: usize, not_held: usize) {
    tracing::trace!(held, not_held, "renewed");
    count!("leasehold_renewal_rounds_total", "outcome" => "answered");
}

pub(crate) fn renewal_failed(unanswered: usize, of: usize, error: Option<&Error>) {
    let error = error.map(tracing::field::display);
    tracing::warn!(unanswered, of, error, "renewals without an answer, asking again");
    count!("leasehold_renewal_rounds_total", "outcome" => "unanswered");
}

pub(crate) fn lost(claim: &Claim, reason: LossReason) {
    tracing::warn!(name = %claim.name(), holder = %claim.holder(), %reason, "lost");
    count!("leasehold_lost_total", "reason" => word(reason));
}

pub(crate) fn released(claim: &Claim) {
    tracing::debug!(name = %claim.name(), holder = %claim.holder(), "released");
    count!("leasehold_released_total");
}

pub(crate) fn release_failed(claim: &Claim, error: &Error) {
    tracing::warn!(name = %claim.name(), holder = %claim.holder(), %error, "release without an answer");
}

pub(crate) fn gave_up_withdrawing(claim: &Claim, error: Option<&Error>) {
    let error = error.map(tracing::field::display);
    tracing::warn!(name = %claim.name(), holder = %claim.holder(), error, "not given back: its TTL will end it");
}

#[cfg(feature = "metrics")]
fn word(reason: LossReason) -> &'static str {
    match reason {
        LossReason::Expired => "expired",
        LossReason::NotHeld => "not_held",
        LossReason::SessionEnded => "session_ended",
        LossReason::Released => "released",
    }
}
