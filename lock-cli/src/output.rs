//! Output: escaped text, notices on standard error, results on standard output.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use leasehold::{FencingToken, HeldBy, LockName};
use serde_json::{Value, json};

use crate::failure::Failure;

/// Makes text of others safe for a terminal: escapes control characters, and those that change the
/// direction of writing.
pub(crate) fn escape(text: &str) -> String {
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

/// A duration for people: whole seconds, or milliseconds below one second.
pub(crate) fn format_duration(time: Duration) -> String {
    let whole = if time < Duration::from_secs(1) {
        Duration::from_millis(time.as_millis() as u64)
    } else {
        Duration::from_secs(time.as_secs())
    };
    humantime::format_duration(whole).to_string()
}

/// Prints one line on standard error, and ignores failures.
pub(crate) fn print_notice(message: &str) {
    let _ = writeln!(io::stderr(), "leasehold: {}", escape(message));
}

/// Prints a failure on standard error, and returns its exit status.
pub(crate) fn report(failure: &Failure) -> ExitCode {
    if !failure.message().is_empty() {
        print_notice(failure.message());
    }
    failure.status()
}

/// Writes a result to standard output.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|error| Failure::output(&error))
}

/// The holder of a lock as JSON. The fields are documented in `docs/command.md`, and stay.
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
        assert_eq!(escape("a\x1b[2Jb\nc\u{202e}d\u{9b}e"), r"a\u{1b}[2Jb\nc\u{202e}d\u{9b}e");
        assert_eq!(escape("é e\u{301} ☃ 'x' \"y\" \\"), "é e\u{301} ☃ 'x' \"y\" \\");
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
