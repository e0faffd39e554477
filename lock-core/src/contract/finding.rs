//! [`Finding`]: one fact of a diagnosis, and its [`Severity`].

use std::fmt;

use crate::words::Guarantees;

/// One fact that a store looked at for [`LockStore::diagnose`](crate::LockStore::diagnose), as of
/// the moment of the question.
///
/// The code names the fact and not a fault: a setting that is as it should be is found too, with
/// [`Severity::Info`]. So an answer without a code means that the store does not look at it. In one
/// answer, a code comes at most once for each subject.
///
/// Its `Display` is one line: severity, code, subject, text.
///
/// ```
/// use lock_core::{Finding, Severity};
///
/// let text = "allkeys-lru may evict locks that are held; set it to noeviction";
/// let finding = Finding::warning("maxmemory-policy", text).about("10.0.0.1:6379");
/// assert_eq!(finding.to_string(), format!("warning maxmemory-policy 10.0.0.1:6379: {text}"));
/// assert!(finding.severity > Severity::Info);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The fact that was looked at: a short name in kebab case, which a script can compare. It
    /// stays the same in later versions. The page of each store lists its codes.
    pub code: &'static str,
    /// The server, file or member that the fact is about; `None` if there is only one.
    pub subject: Option<String>,
    /// One line for people: the value that was seen, what follows from it, and what would be
    /// right. It holds no password.
    pub text: String,
}

/// Severity of a [`Finding`]. They are ordered: `Info < Warning < Error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// As it should be, or a plain fact. Correctness: what the store promises holds. Operations:
    /// nothing to do.
    Info,
    /// Correctness: what the store promises holds, but it promises less than it could with another
    /// setting, or that is unknown. Operations: locks can be acquired, and one more fault may end
    /// that. Look at it soon.
    Warning,
    /// Correctness: the store keeps less than it promised when it was opened. Or operations: locks
    /// cannot be acquired or renewed. Act now.
    Error,
}

impl Finding {
    /// A finding of this severity.
    pub fn new(severity: Severity, code: &'static str, text: impl Into<String>) -> Finding {
        Finding { severity, code, subject: None, text: text.into() }
    }

    /// A fact that is as it should be.
    pub fn info(code: &'static str, text: impl Into<String>) -> Finding {
        Finding::new(Severity::Info, code, text)
    }

    /// A fact that weakens what the store can promise, or is about to stop it.
    pub fn warning(code: &'static str, text: impl Into<String>) -> Finding {
        Finding::new(Severity::Warning, code, text)
    }

    /// A fact that breaks a promise, or stops the store.
    pub fn error(code: &'static str, text: impl Into<String>) -> Finding {
        Finding::new(Severity::Error, code, text)
    }

    /// The finding `guarantees`: what the store promised when it was opened, compared with what its
    /// servers keep now. It is an error if they keep less, since the belief in it is wrong.
    pub fn guarantees(promised: &Guarantees, now: &Guarantees) -> Finding {
        let missing: Vec<_> = now.shortfalls(promised).iter().map(ToString::to_string).collect();
        if !missing.is_empty() {
            let text = format!("less is kept than was promised when the store was opened: {}", missing.join("; "));
            return Finding::error("guarantees", text);
        }
        match promised.shortfalls(now).is_empty() {
            true => Finding::info("guarantees", "what was promised when the store was opened is kept"),
            false => Finding::info("guarantees", "more is kept than was promised; a store that is opened anew has it"),
        }
    }

    /// The finding about this server, file or member. A subject that it has already becomes a part
    /// of the new one, as a server of a member of a quorum.
    #[must_use]
    pub fn about(mut self, subject: impl Into<String>) -> Finding {
        let outer = subject.into();
        self.subject = Some(match self.subject {
            Some(inner) => format!("{outer}, {inner}"),
            None => outer,
        });
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.severity, self.code)?;
        if let Some(subject) = &self.subject {
            write!(f, " {subject}")?;
        }
        write!(f, ": {}", self.text)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::Faults;

    #[test]
    fn severities_are_ordered_from_a_fact_to_a_fault() {
        assert!(Severity::Info < Severity::Warning && Severity::Warning < Severity::Error);
    }

    #[test]
    fn guarantees_that_fell_since_the_store_was_opened_are_an_error() {
        let (all, none) = (Guarantees::NONE.records_survive(Faults::ALL), Guarantees::NONE);
        let fell = Finding::guarantees(&all, &none);
        assert_eq!((fell.severity, fell.code), (Severity::Error, "guarantees"));
        assert!(fell.text.contains("power loss"), "{fell}");
        assert_eq!(Finding::guarantees(&all, &all).severity, Severity::Info);
        assert_eq!(Finding::guarantees(&none, &all).severity, Severity::Info);
    }

    #[test]
    fn a_finding_is_one_line_with_its_severity_and_code_first() {
        assert_eq!(Finding::info("scope", "this process").to_string(), "info scope: this process");
        let nested = Finding::error("role", "a replica").about("h:1").about("member 2");
        assert_eq!(nested.to_string(), "error role member 2, h:1: a replica");
    }
}
