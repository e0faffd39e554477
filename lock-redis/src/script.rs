//! [`Script`]: the steps of the contract, as the server runs them.

/// The steps of the contract, each one script, so that nothing comes between its check and its act. Names reach them as
/// keys, and everything else as arguments: nothing that a user says is ever part of a script. A holder is given as its
/// values begin, with the dot that follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Script {
    Request,
    Renew,
    Release,
    Several,
    Look,
    Break,
    Raise,
    Realm,
    CarryOn,
    Keep,
}

const READ: &str = include_str!("scripts/read.lua");
const LESS: &str = include_str!("scripts/less.lua");
const NEXT: &str = concat!(include_str!("scripts/less.lua"), include_str!("scripts/next.lua"));
const REQUEST: &str = include_str!("scripts/request.lua");
const UNUSUAL: &str = include_str!("scripts/unusual.lua");
const REQUEST_OF: &str = "lock, counter, tombstone, holder, ttl, ending, known, new";
const RELEASE: &str = include_str!("scripts/release.lua");
const RELEASE_OF: &str = "lock, holder, tombstone, ms";

impl Script {
    pub(crate) const ALL: [Script; 10] = [
        Script::Request,
        Script::Renew,
        Script::Release,
        Script::Several,
        Script::Look,
        Script::Break,
        Script::Raise,
        Script::Realm,
        Script::CarryOn,
        Script::Keep,
    ];

    pub(crate) fn text(self) -> String {
        match self {
            Script::Request => {
                let given = "KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]";
                format!("local {REQUEST_OF} = {given}\n{REQUEST}{READ}{NEXT}{UNUSUAL}")
            }
            Script::Renew => [READ, include_str!("scripts/renew.lua")].concat(),
            Script::Release => format!("local {RELEASE_OF} = KEYS[1], ARGV[1], KEYS[2], ARGV[2]\n{RELEASE}"),
            Script::Several => {
                let request = format!("local function request({REQUEST_OF})\n{REQUEST}{UNUSUAL}end\n");
                let release = format!("local function release({RELEASE_OF})\n{RELEASE}end\n");
                [READ, NEXT, &request, &release, include_str!("scripts/several.lua")].concat()
            }
            Script::Look => [READ, include_str!("scripts/look.lua")].concat(),
            Script::Break => [READ, NEXT, include_str!("scripts/break.lua")].concat(),
            Script::Raise => [READ, LESS, include_str!("scripts/raise.lua")].concat(),
            Script::Realm => include_str!("scripts/realm.lua").to_owned(),
            Script::CarryOn => include_str!("scripts/carry_on.lua").to_owned(),
            Script::Keep => include_str!("scripts/keep.lua").to_owned(),
        }
    }

    /// What it does, for error texts.
    pub(crate) fn doing(self) -> &'static str {
        match self {
            Script::Request => "asking for a lock",
            Script::Renew => "renewing",
            Script::Release => "releasing a lock",
            Script::Several => "asking for locks and releasing others",
            Script::Look => "looking at locks",
            Script::Break => "breaking a lock",
            Script::Raise => "raising a token",
            Script::Realm => "reading the realm",
            Script::CarryOn => "carrying on a counter",
            Script::Keep => "keeping who belongs to a quorum",
        }
    }
}
