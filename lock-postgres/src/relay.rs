//! [`Relay`]: a local socket that leads to one address of a host.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lock_core::random;
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::time::timeout;

/// A local socket that leads to one address of a host. The client connects only to the first
/// address of a name, but needs the name to check a certificate. To try another address, it
/// connects to this socket, in a folder that only this user can enter.
pub(crate) struct Relay {
    folder: PathBuf,
}

impl Relay {
    /// Connects to the address, and accepts the client within `limit`. The client derives the
    /// socket's file from its folder and the port.
    pub(crate) async fn connect(address: SocketAddr, port: u16, limit: Duration) -> io::Result<Relay> {
        let far = TcpStream::connect(address).await?;
        far.set_nodelay(true)?;
        let relay = Relay { folder: std::env::temp_dir().join(format!("leasehold-{}", random::hex128())) };
        std::fs::DirBuilder::new().mode(0o700).create(&relay.folder)?;
        let listener = UnixListener::bind(relay.folder.join(format!(".s.PGSQL.{port}")))?;
        tokio::spawn(async move {
            if let Ok(Ok((near, _))) = timeout(limit, listener.accept()).await {
                drop(listener);
                copy_both_ways(near, far).await;
            }
        });
        Ok(relay)
    }

    /// The folder of the socket, as `host=` names it.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Removes the folder: after the client has connected or given up, nobody needs it.
impl Drop for Relay {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Copies in both directions until one side ends.
async fn copy_both_ways(mut near: UnixStream, mut far: TcpStream) {
    let (mut from_near, mut to_near) = near.split();
    let (mut from_far, mut to_far) = far.split();
    tokio::select! {
        _ = tokio::io::copy(&mut from_near, &mut to_far) => {}
        _ = tokio::io::copy(&mut from_far, &mut to_near) => {}
    }
}
