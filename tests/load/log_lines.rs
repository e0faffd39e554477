//! [`LogLines`]: counts log lines.

use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::order::Answer;

/// Counts the lines that this process would log: information, warnings and errors of all crates.
#[derive(Clone, Default)]
pub(crate) struct LogLines(Arc<Mutex<Answer>>);

impl LogLines {
    /// Starts to count.
    pub(crate) fn begin() -> LogLines {
        let lines = LogLines::default();
        tracing_subscriber::registry().with(lines.clone()).init();
        lines
    }

    pub(crate) fn count(&self) -> Answer {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl<S: Subscriber> Layer<S> for LogLines {
    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        if *metadata.level() > Level::INFO {
            return;
        }
        let mut line = Line(format!("{} {}:", metadata.level(), metadata.target()));
        event.record(&mut line);
        let mut answer = self.0.lock().unwrap();
        answer.lines += 1;
        answer.note(line.0);
    }
}

/// A log line without the parts that differ in every line, such as the name of the lock.
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => drop(write!(self.0, " {value:?}")),
            "error" | "reason" => drop(write!(self.0, " ({})", without_numbers(&format!("{value:?}")))),
            _ => {}
        }
    }
}

/// Replaces each number by `#`, so that texts that differ only in a name are equal.
pub(crate) fn without_numbers(text: &str) -> String {
    let mut short = String::new();
    for letter in text.chars() {
        match letter {
            '0'..='9' if short.ends_with('#') => {}
            '0'..='9' => short.push('#'),
            _ => short.push(letter),
        }
    }
    short
}
