//! What people and programs read: escaped text, lines on standard error, results on standard output.

use std::io::{self, Write};
use std::time::Duration;

use leasehold::{FencingToken, HeldBy, LockName};
use serde_json::{Value, json};

use crate::failure::Failure;

/// Text that others wrote, safe to show on a terminal: control characters, and those that turn the direction of
/// writing, are spelled out.
pub(crate) fn shown(text: &str) -> String {
    let turns = |c| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' | '\0' => shown.extend(c.escape_debug()),
            c if c.is_control() || turns(c) || matches!(c, '\u{2028}' | '\u{2029}') => shown.extend(c.escape_unicode()),
            c => shown.push(c),
        }
    }
    shown
}

/// A time as people read it: whole seconds, or milliseconds below one second.
pub(crate) fn time(time: Duration) -> String {
    let whole = if time < Duration::from_secs(1) {
        Duration::from_millis(time.as_millis() as u64)
    } else {
        Duration::from_secs(time.as_secs())
    };
    humantime::format_duration(whole).to_string()
}

/// Tells people something, on one line of standard error. Nobody need be listening.
pub(crate) fn complain(message: &str) {
    let _ = writeln!(io::stderr(), "leasehold: {}", shown(message));
}

/// Writes a result to standard output.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|error| Failure::output(&error))
}

/// Who holds a lock, as a program reads it. The fields are documented in `docs/command.md`, and stay.
pub(crate) fn json_of(name: &LockName, by: Option<&HeldBy>) -> Value {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let info = by.and_then(|by| by.info.as_ref());
    json!({
        "name": name.as_str(),
        "held": by.is_some_and(|by| !by.revoked),
        "revoked": by.is_some_and(|by| by.revoked),
        "holder": by.and_then(|by| by.holder).map(|holder| holder.to_string()),
        "host": info.map(|info| info.host.as_str()),
        "pid": info.map(|info| info.pid),
        "info": info.map(|info| info.text.as_str()),
        "token": by.and_then(|by| by.token.as_ref()).map(FencingToken::number),
        "realm": by.and_then(|by| by.token.as_ref()).map(|token| token.realm().as_str()),
        "held_for_ms": by.and_then(|by| by.held_for).map(millis),
        "remaining_ms": by.and_then(|by| by.remaining).map(millis),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_cannot_steer_a_terminal() {
        assert_eq!(shown("a\x1b[2Jb\nc\u{202e}d\u{9b}e"), r"a\u{1b}[2Jb\nc\u{202e}d\u{9b}e");
        assert_eq!(shown("é e\u{301} ☃ 'x' \"y\" \\"), "é e\u{301} ☃ 'x' \"y\" \\");
    }

    #[test]
    fn a_free_lock_has_all_fields_too() {
        let name = LockName::new("demo").unwrap();
        let free = json_of(&name, None);
        let held = json_of(&name, Some(&HeldBy::default()));
        let fields = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(fields(&free), fields(&held));
        assert_eq!((free["held"].as_bool(), held["held"].as_bool()), (Some(false), Some(true)));
    }
}
