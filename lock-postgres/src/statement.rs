//! [`Statement`]: one message to the server, in both forms of the protocol.

use std::fmt::Write as _;
use std::sync::Arc;

/// One statement, with places `$1`, `$2`, … for values.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    /// What it does, for people.
    pub(crate) doing: &'static str,
    pub(crate) sql: Arc<str>,
}

/// What stands in a place.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Text(String),
    Number(i64),
    Texts(Vec<String>),
    Numbers(Vec<i64>),
}

impl Statement {
    pub(crate) fn new(doing: &'static str, sql: impl Into<Arc<str>>) -> Statement {
        Statement { doing, sql: sql.into() }
    }

    /// The statement with its values in it, for the protocol that knows no places. Texts are hexadecimal digits, so
    /// that nothing in them is ever read as SQL, whatever the server's settings for strings are.
    pub(crate) fn spelled(&self, values: &[Value]) -> String {
        let mut text = String::with_capacity(self.sql.len() + 64 * values.len());
        let mut rest = &*self.sql;
        while let Some(at) = rest.find('$') {
            text.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let place = rest[..digits].parse::<usize>().expect("BUG: a $ of our statements is followed by a number");
            values[place - 1].spell(&mut text);
            rest = &rest[digits..];
        }
        text.push_str(rest);
        text
    }
}

impl Value {
    pub(crate) fn text(text: impl ToString) -> Value {
        Value::Text(text.to_string())
    }

    fn spell(&self, into: &mut String) {
        match self {
            Value::Text(text) => spell_text(text, into),
            Value::Number(number) => spell_number(*number, into),
            Value::Texts(texts) => spell_all(texts, "text", into, |text, into| spell_text(text, into)),
            Value::Numbers(numbers) => spell_all(numbers, "bigint", into, |number, into| spell_number(*number, into)),
        }
    }
}

fn spell_text(text: &str, into: &mut String) {
    into.push_str("convert_from(decode('");
    for byte in text.bytes() {
        let _ = write!(into, "{byte:02x}");
    }
    into.push_str("','hex'),'UTF8')");
}

fn spell_number(number: i64, into: &mut String) {
    let _ = write!(into, "({number})::bigint");
}

fn spell_all<T>(all: &[T], kind: &str, into: &mut String, spell: impl Fn(&T, &mut String)) {
    into.push_str("array[");
    for (at, one) in all.iter().enumerate() {
        if at > 0 {
            into.push(',');
        }
        spell(one, into);
    }
    let _ = write!(into, "]::{kind}[]");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_spelled_as_digits_and_nothing_else() {
        let statement = Statement::new("", "select $1, $2, $10");
        let mut values = vec![Value::text("'; drop $1"), Value::Number(-7)];
        values.extend((0..7).map(Value::Number));
        values.push(Value::Texts(vec!["a".to_owned(), "'".to_owned()]));
        assert_eq!(
            statement.spelled(&values),
            "select convert_from(decode('273b2064726f70202431','hex'),'UTF8'), (-7)::bigint, \
             array[convert_from(decode('61','hex'),'UTF8'),convert_from(decode('27','hex'),'UTF8')]::text[]"
        );
    }
}
