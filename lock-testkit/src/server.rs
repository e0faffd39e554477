//! [`Server`]: the operations that all servers share.

/// The operations that all servers share. An implementation is one server, or several that form one
/// store.
pub trait Server: Send + Sync {
    /// The ports by which clients reach it.
    fn ports(&self) -> Vec<u16>;

    /// Suspends it.
    fn pause(&self);

    /// Continues it.
    fn resume(&self);

    /// Kills it and starts it again on its data. Returns when it answers.
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
