//! [`Table`]: the name of the table of leases.

use std::fmt;

use lock_core::{Error, Result};

/// The table of leases, in a schema. Beside it is a table of one row, of the same name and `_meta`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    schema: String,
    name: String,
}

impl Table {
    /// `public.leasehold`.
    pub const DEFAULT: &str = "public.leasehold";
    /// `public.leasehold_advisory`.
    pub const DEFAULT_ADVISORY: &str = "public.leasehold_advisory";

    /// PostgreSQL truncates names to 63 bytes; `_meta` and the names of indexes add up to ten.
    const MAX_NAME_BYTES: usize = 50;

    /// The table with this name: `name`, in the schema `public`, or `schema.name`. The search path
    /// of a connection does not matter: behind a pooler it may be that of another client.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](lock_core::ErrorKind::InvalidConfig) for a name that has other characters
    /// than ASCII letters, digits and `_`, or more than 50.
    pub fn parse(text: &str) -> Result<Table> {
        let (schema, name) = text.split_once('.').unwrap_or(("public", text));
        if name.contains('.') {
            return Err(Error::invalid_config(format!("table={text} is not accepted: it takes name or schema.name")));
        }
        let is_name = |name: &str| {
            !name.is_empty()
                && name.len() <= Self::MAX_NAME_BYTES
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        if !is_name(schema) || !is_name(name) {
            return Err(Error::invalid_config(format!(
                "table={text} is not accepted: a name has 1 to {} ASCII letters, digits and _",
                Self::MAX_NAME_BYTES
            )));
        }
        Ok(Table { schema: schema.to_owned(), name: name.to_owned() })
    }

    /// The schema.
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// The name within the schema.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The table of leases, as SQL names it.
    pub(crate) fn leases(&self) -> String {
        format!("\"{}\".\"{}\"", self.schema, self.name)
    }

    /// The table of one row, as SQL names it.
    pub(crate) fn meta(&self) -> String {
        format!("\"{}\".\"{}_meta\"", self.schema, self.name)
    }

    /// The channel for notifications of releases, one for the whole table. A channel name has at
    /// most 63 bytes.
    pub(crate) fn channel(&self) -> String {
        format!("leasehold_{:08x}", crc32fast::hash(self.to_string().as_bytes()))
    }

    /// `sql`, with the names of the tables for `{t}` and `{m}`.
    pub(crate) fn with_names(&self, sql: &str) -> String {
        sql.replace("{t}", &self.leases()).replace("{m}", &self.meta())
    }
}

impl Default for Table {
    fn default() -> Table {
        Table { schema: "public".to_owned(), name: "leasehold".to_owned() }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}
