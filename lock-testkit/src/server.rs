//! [`Server`]: what can be done to every server.

/// Real servers, as far as they are all alike: one, or several that are one store together.
pub trait Server: Send + Sync {
    /// The ports by which clients reach it.
    fn ports(&self) -> Vec<u16>;

    /// It stands still.
    fn pause(&self);

    /// It goes on.
    fn resume(&self);

    /// It is killed, and started again on what it kept; comes back when it answers.
    fn restart(&mut self);
}

impl<S: Server> Server for Vec<S> {
    fn ports(&self) -> Vec<u16> {
        self.iter().flat_map(Server::ports).collect()
    }

    fn pause(&self) {
        self.iter().for_each(Server::pause);
    }

    fn resume(&self) {
        self.iter().for_each(Server::resume);
    }

    fn restart(&mut self) {
        self.iter_mut().for_each(Server::restart);
    }
}
