//! [`Statement`]: one statement, for both forms of the protocol.

use std::fmt::Write as _;
use std::sync::Arc;

/// One statement, with the parameters `$1`, `$2`, …
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    /// The action, for messages.
    pub(crate) action: &'static str,
    pub(crate) sql: Arc<str>,
}

/// The value of a parameter.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Text(String),
    Number(i64),
    Texts(Vec<String>),
    Numbers(Vec<i64>),
}

impl Statement {
    pub(crate) fn new(action: &'static str, sql: impl Into<Arc<str>>) -> Statement {
        Statement { action, sql: sql.into() }
    }

    /// The statement with its values as literals, for the protocol without parameters. Texts are
    /// hexadecimal digits, so that nothing in them is ever read as SQL, whatever the server's
    /// settings for strings are.
    pub(crate) fn inlined(&self, values: &[Value]) -> String {
        let mut text = String::with_capacity(self.sql.len() + 64 * values.len());
        let mut rest = &*self.sql;
        while let Some(at) = rest.find('$') {
            text.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let parameter =
                rest[..digits].parse::<usize>().expect("BUG: a $ of our statements is followed by a number");
            values[parameter - 1].write_literal(&mut text);
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

    fn write_literal(&self, sql: &mut String) {
        match self {
            Value::Text(text) => write_text(text, sql),
            Value::Number(number) => write_number(*number, sql),
            Value::Texts(texts) => write_array(texts, "text", sql, |text, sql| write_text(text, sql)),
            Value::Numbers(numbers) => write_array(numbers, "bigint", sql, |number, sql| write_number(*number, sql)),
        }
    }
}

fn write_text(text: &str, sql: &mut String) {
    sql.push_str("convert_from(decode('");
    for byte in text.bytes() {
        let _ = write!(sql, "{byte:02x}");
    }
    sql.push_str("','hex'),'UTF8')");
}

fn write_number(number: i64, sql: &mut String) {
    let _ = write!(sql, "({number})::bigint");
}

fn write_array<T>(all: &[T], kind: &str, sql: &mut String, write_literal: impl Fn(&T, &mut String)) {
    sql.push_str("array[");
    for (at, one) in all.iter().enumerate() {
        if at > 0 {
            sql.push(',');
        }
        write_literal(one, sql);
    }
    let _ = write!(sql, "]::{kind}[]");
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
            statement.inlined(&values),
            "select convert_from(decode('273b2064726f70202431','hex'),'UTF8'), (-7)::bigint, \
             array[convert_from(decode('61','hex'),'UTF8'),convert_from(decode('27','hex'),'UTF8')]::text[]"
        );
    }
}
