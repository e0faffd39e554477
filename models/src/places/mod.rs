//! The model of who has a place in a quorum, to be searched in full.
//!
//! Clients form a quorum and let members join it, as proposers of Paxos; the members are the
//! acceptors. Each sees only a part of the members, messages are lost and late, clients stop
//! anywhere, members miss the forming, and lose all their data. The search asks for a realm in
//! which more data ever had a place than there are places: then two majorities may not share a
//! member that remembers. And it asks for two realms that were opened although nobody lost
//! anything.

mod member;
mod model;
mod rule;

pub use self::model::Model;
pub use self::rule::Rule;
