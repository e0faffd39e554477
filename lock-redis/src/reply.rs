//! Replies of the scripts.

use std::sync::Arc;
use std::time::Duration;

use redis::Value as Answer;

use crate::connection::Connection;
use crate::value::LockValue;

/// The reply to a request.
#[derive(Debug)]
pub(crate) enum RequestReply {
    /// A lease with this token. `raised`: the counter had fallen behind, and was set above the
    /// highest token known here.
    Granted { token: u64, raised: bool },
    /// Another holder has it, for the remaining time if that is known. `counter` is the state of
    /// its counter, 0 if there is none.
    Held { by: LockValue, remaining: Option<Duration>, counter: u64 },
    /// It was withdrawn before the server ran it.
    Withdrawn,
}

/// The reply of a script that may give a token.
#[derive(Debug)]
pub(crate) struct TokenReply {
    pub(crate) answer: Answer,
    /// The id of the realm of that token.
    pub(crate) realm_id: Arc<str>,
    pub(crate) connection: Arc<Connection>,
}

impl RequestReply {
    /// `None` for a reply that the script does not give.
    pub(crate) fn parse(answer: &Answer) -> Option<RequestReply> {
        let parts = match answer {
            // The common reply: a grant with a token that is exact as a number of a script.
            Answer::Int(token) => {
                return Some(RequestReply::Granted { token: u64::try_from(*token).ok()?, raised: false });
            }
            Answer::Array(parts) => parts,
            _ => return None,
        };
        match (text_at(parts, 0)?, parts.get(1), int_at(parts, 2)) {
            ("granted", ..) => {
                Some(RequestReply::Granted { token: text_at(parts, 1)?.parse().ok()?, raised: int_at(parts, 2)? == 1 })
            }
            ("held", Some(Answer::BulkString(value)), Some(pttl)) => {
                let counter = text_at(parts, 3).and_then(|counter| counter.parse().ok()).unwrap_or(0);
                Some(RequestReply::Held { by: LockValue::parse(value), remaining: remaining_from_pttl(pttl), counter })
            }
            ("withdrawn", ..) => Some(RequestReply::Withdrawn),
            _ => None,
        }
    }
}

/// The remaining time in a reply to `PTTL`; `None` for a key without expiry.
pub(crate) fn remaining_from_pttl(pttl: i64) -> Option<Duration> {
    u64::try_from(pttl).ok().map(|left| Duration::from_millis(left + 1))
}

/// The status word, which is the first part of a reply of several parts.
pub(crate) fn status(answer: &Answer) -> Option<&str> {
    match answer {
        Answer::Array(parts) => text_at(parts, 0),
        _ => None,
    }
}

pub(crate) fn text_at(answer: &[Answer], at: usize) -> Option<&str> {
    match answer.get(at)? {
        Answer::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Answer::SimpleString(text) => Some(text),
        _ => None,
    }
}

pub(crate) fn int_at(answer: &[Answer], at: usize) -> Option<i64> {
    match answer.get(at)? {
        Answer::Int(number) => Some(*number),
        _ => None,
    }
}
