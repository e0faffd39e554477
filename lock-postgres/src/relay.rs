//! [`Relay`]: a way to one address of a name, for a client that connects to names.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lock_core::Holder;
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::time::timeout;

/// A socket that leads to one address of a name. The client of the database connects to names only, and to the first
/// address of one; but by the name it checks a certificate. So where another address is to be tried, it connects to this
/// socket, in a folder that only this user can enter.
pub(crate) struct Relay {
    folder: PathBuf,
}

impl Relay {
    /// Connects to the address, and waits for the client, which adds the port to the folder, for as long as `limit`.
    pub(crate) async fn connect(address: SocketAddr, port: u16, limit: Duration) -> io::Result<Relay> {
        let far = TcpStream::connect(address).await?;
        far.set_nodelay(true)?;
        let relay = Relay { folder: std::env::temp_dir().join(format!("leasehold-{}", Holder::fresh())) };
        std::fs::DirBuilder::new().mode(0o700).create(&relay.folder)?;
        let listener = UnixListener::bind(relay.folder.join(format!(".s.PGSQL.{port}")))?;
        tokio::spawn(async move {
            if let Ok(Ok((near, _))) = timeout(limit, listener.accept()).await {
                drop(listener);
                carry(near, far).await;
            }
        });
        Ok(relay)
    }

    /// The folder of the socket, as `host=` names it.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Once the client has connected, or has given up, nothing of it is needed.
impl Drop for Relay {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Carries both ways until one side ends.
async fn carry(mut near: UnixStream, mut far: TcpStream) {
    let (mut from_near, mut to_near) = near.split();
    let (mut from_far, mut to_far) = far.split();
    tokio::select! {
        _ = tokio::io::copy(&mut from_near, &mut to_far) => {}
        _ = tokio::io::copy(&mut from_far, &mut to_near) => {}
    }
}
