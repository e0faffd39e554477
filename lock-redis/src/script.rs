//! [`Script`]: the Lua scripts.

/// The scripts. Each step of the contract is one script, so that nothing comes between its check
/// and its act. Names are passed as keys and everything else as arguments: no text of a user is
/// ever part of a script. A holder is passed as the prefix of its values, with the dot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Script {
    Request,
    Renew,
    Release,
    Batch,
    Inspect,
    Break,
    Raise,
    Realm,
    MoveCounter,
    Record,
}

const READ: &str = include_str!("scripts/read.lua");
const COMPARE: &str = include_str!("scripts/compare.lua");
const NEXT_TOKEN: &str = concat!(include_str!("scripts/compare.lua"), include_str!("scripts/next_token.lua"));
const REQUEST: &str = include_str!("scripts/request.lua");
const REQUEST_SLOW: &str = include_str!("scripts/request_slow.lua");
const REQUEST_PARAMETERS: &str = "lock, counter, tombstone, holder, ttl, ending, known, new";
const RELEASE: &str = include_str!("scripts/release.lua");
const RELEASE_PARAMETERS: &str = "lock, holder, tombstone, ms";

impl Script {
    pub(crate) const ALL: [Script; 10] = [
        Script::Request,
        Script::Renew,
        Script::Release,
        Script::Batch,
        Script::Inspect,
        Script::Break,
        Script::Raise,
        Script::Realm,
        Script::MoveCounter,
        Script::Record,
    ];

    /// The text of the script.
    pub(crate) fn text(self) -> String {
        match self {
            Script::Request => {
                let given = "KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]";
                format!("local {REQUEST_PARAMETERS} = {given}\n{REQUEST}{READ}{NEXT_TOKEN}{REQUEST_SLOW}")
            }
            Script::Renew => [READ, include_str!("scripts/renew.lua")].concat(),
            Script::Release => format!("local {RELEASE_PARAMETERS} = KEYS[1], ARGV[1], KEYS[2], ARGV[2]\n{RELEASE}"),
            Script::Batch => {
                let request = format!("local function request({REQUEST_PARAMETERS})\n{REQUEST}{REQUEST_SLOW}end\n");
                let release = format!("local function release({RELEASE_PARAMETERS})\n{RELEASE}end\n");
                [READ, NEXT_TOKEN, &request, &release, include_str!("scripts/batch.lua")].concat()
            }
            Script::Inspect => [READ, include_str!("scripts/inspect.lua")].concat(),
            Script::Break => [READ, NEXT_TOKEN, include_str!("scripts/break.lua")].concat(),
            Script::Raise => [READ, COMPARE, include_str!("scripts/raise.lua")].concat(),
            Script::Realm => include_str!("scripts/realm.lua").to_owned(),
            Script::MoveCounter => include_str!("scripts/move_counter.lua").to_owned(),
            Script::Record => include_str!("scripts/record.lua").to_owned(),
        }
    }

    /// The action of the script, for error texts.
    pub(crate) fn action(self) -> &'static str {
        match self {
            Script::Request => "asking for a lock",
            Script::Renew => "renewing",
            Script::Release => "releasing a lock",
            Script::Batch => "asking for locks and releasing others",
            Script::Inspect => "looking at locks",
            Script::Break => "breaking a lock",
            Script::Raise => "raising a token",
            Script::Realm => "reading the realm",
            Script::MoveCounter => "carrying on a counter",
            Script::Record => "keeping who belongs to a quorum",
        }
    }
}
