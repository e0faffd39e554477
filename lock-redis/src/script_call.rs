//! [`ScriptCall`]: one call of a script.

use std::sync::OnceLock;

use redis::{Arg, Cmd};

use crate::script::Script;

/// One call of a script: its keys, then its arguments.
pub(crate) struct ScriptCall {
    pub(crate) script: Script,
    pub(crate) key_count: usize,
    command: Cmd,
}

/// The hashes of the scripts, which are the same on every server and come from the first.
static HASHES: OnceLock<Vec<String>> = OnceLock::new();

/// Notes the hashes of [`Script::ALL`], in that order.
pub(crate) fn set_hashes(hashes: Vec<String>) {
    let _ = HASHES.set(hashes);
}

impl ScriptCall {
    pub(crate) fn new<W: AsRef<str>>(script: Script, keys: &[W], arguments: &[W]) -> ScriptCall {
        let bytes = keys.iter().chain(arguments).map(|word| word.as_ref().len()).sum();
        let mut call = ScriptCall::with_capacity(script, keys.len(), arguments.len(), bytes);
        keys.iter().chain(arguments).for_each(|word| call.push(word.as_ref()));
        call
    }

    /// A call with `key_count` keys, which are added with [`push`](ScriptCall::push), and the
    /// arguments after them. The other numbers are expectations.
    pub(crate) fn with_capacity(script: Script, key_count: usize, argument_count: usize, bytes: usize) -> ScriptCall {
        /// `EVALSHA`, the hash and the number of keys.
        const HEADER_WORDS: usize = 3;
        const HEADER_BYTES: usize = 64;
        let command = Cmd::with_capacity(HEADER_WORDS + key_count + argument_count, HEADER_BYTES + bytes);
        let mut call = ScriptCall { script, key_count, command };
        match HASHES.get().and_then(|hashes| hashes.get(script as usize)) {
            Some(hash) => ["EVALSHA", hash].map(|word| call.push(word)),
            None => ["EVAL", &script.text()].map(|word| call.push(word)),
        };
        call.push(itoa::Buffer::new().format(key_count));
        call
    }

    /// Adds the next key; after the last key, the next argument.
    pub(crate) fn push(&mut self, word: &str) {
        self.command.arg(word);
    }

    pub(crate) fn command(&self) -> &Cmd {
        &self.command
    }

    /// The same call with the script's text instead of its hash. It loads the script as well.
    pub(crate) fn to_eval(&self) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(self.script.text());
        for argument in self.command.args_iter().skip(2) {
            if let Arg::Simple(word) = argument {
                command.arg(word);
            }
        }
        command
    }
}
