//! [`Requested`]: what a request brought.

use std::time::Duration;

use redis::Value as Answer;

use crate::value::Value;

/// What a request brought.
#[derive(Debug)]
pub(crate) enum Requested {
    /// A lease with this token. Raised: its counter had fallen behind, and was set above what is known here.
    Granted { token: u64, raised: bool },
    /// Another has it, for so long as is known; and what its counter has reached, if it has one.
    Held { by: Value, remaining: Option<Duration>, counter: u64 },
    /// It was withdrawn before the server came to it.
    Withdrawn,
}

impl Requested {
    /// `None` for an answer that no script of ours gives.
    pub(crate) fn read(answer: &Answer) -> Option<Requested> {
        let words = match answer {
            // Mostly it is granted, with a token that a script's numbers can say.
            Answer::Int(token) => {
                return Some(Requested::Granted { token: u64::try_from(*token).ok()?, raised: false });
            }
            Answer::Array(words) => words,
            _ => return None,
        };
        match (text(words, 0)?, words.get(1), number(words, 2)) {
            ("granted", ..) => {
                Some(Requested::Granted { token: text(words, 1)?.parse().ok()?, raised: number(words, 2)? == 1 })
            }
            ("held", Some(Answer::BulkString(value)), Some(pttl)) => {
                let counter = text(words, 3).and_then(|counter| counter.parse().ok()).unwrap_or(0);
                Some(Requested::Held { by: Value::read(value), remaining: remaining_of(pttl), counter })
            }
            ("withdrawn", ..) => Some(Requested::Withdrawn),
            _ => None,
        }
    }
}

/// What `PTTL` says; `None` for a key without an expiry.
pub(crate) fn remaining_of(pttl: i64) -> Option<Duration> {
    u64::try_from(pttl).ok().map(|left| Duration::from_millis(left + 1))
}

/// The word with which an answer of several parts begins.
pub(crate) fn word(answer: &Answer) -> Option<&str> {
    match answer {
        Answer::Array(parts) => text(parts, 0),
        _ => None,
    }
}

pub(crate) fn text(answer: &[Answer], at: usize) -> Option<&str> {
    match answer.get(at)? {
        Answer::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Answer::SimpleString(text) => Some(text),
        _ => None,
    }
}

pub(crate) fn number(answer: &[Answer], at: usize) -> Option<i64> {
    match answer.get(at)? {
        Answer::Int(number) => Some(*number),
        _ => None,
    }
}
