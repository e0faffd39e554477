//! [`Rule`]: how it is decided who has a place.

/// How it is decided who has a place: the rule that holds, and others that look right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A majority of all members decides who forms the quorum, and a majority of those who formed
    /// it who joins: in two phases, of which the first finds what may have been decided already. A
    /// place is data's, and is never given again.
    Sound,
    /// Whoever is there decides who joins, newcomers among them: they are a majority, after all.
    NewcomersDecide,
    /// One of those who formed it lets another join: it was there, after all.
    OneDecides,
    /// Who joins is written to a majority of those who formed it, without asking what they have
    /// accepted.
    JoinsUnasked,
    /// Who lost its data gets the place that it had: it is the same member, after all.
    PlacesAreGivenAgain,
    /// The quorum is formed by writing to a majority, without asking what they have accepted.
    FormsUnasked,
    /// What was accepted is passed over: it may not have been decided, after all.
    FormsAnew,
}

impl Rule {
    /// The rules of joining that look right and are not.
    pub const WRONG_OF_JOINING: [Rule; 4] =
        [Rule::NewcomersDecide, Rule::OneDecides, Rule::JoinsUnasked, Rule::PlacesAreGivenAgain];
    /// The rules of forming that look right and are not.
    pub const WRONG_OF_FORMING: [Rule; 2] = [Rule::FormsUnasked, Rule::FormsAnew];
}
