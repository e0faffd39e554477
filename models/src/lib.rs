//! The model of the tokens that a quorum gives, to be searched in full.
//!
//! Three members vote on one name. Clients ask them, choose a token, let a majority raise its own
//! to it, hold, ask again, and give back. Messages are lost, repeated and late; leases end early,
//! as they do when a clock steps or a member forgets them; members may lose all their data. The
//! search asks for two tokens that are equal, and for one that is not greater than a token that was
//! given out before its holder began to ask.
//!
//! What a message does when it never arrives is what the search sees while it has not arrived yet;
//! a member that is restarted and keeps its data, or is gone for good, is one whose messages were
//! lost.

mod model;
pub mod places;
mod rule;
mod state;

pub use self::model::Model;
pub use self::rule::Rule;
