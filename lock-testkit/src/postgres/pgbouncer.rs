//! [`PgBouncer`]: a pooler before a server.

use std::fs;
use std::process::Stdio;

use tempfile::TempDir;

use super::data_folder::new_folder;
use super::programs::{path_of, unprivileged};
use super::server::PostgresServer;
use crate::kill_on_exit::KillOnExit;
use crate::{Process, free_port, until};

/// A `pgbouncer` in transaction mode before a server, on a private port: four server connections
/// for up to 1000 clients. Dropped, it is killed.
#[derive(Debug)]
pub struct PgBouncer {
    port: u16,
    _process: Process,
    _kill_on_exit: KillOnExit,
    _folder: TempDir,
}

impl PgBouncer {
    /// Starts it before `server`.
    ///
    /// # Panics
    ///
    /// If it does not start.
    #[track_caller]
    pub fn start(server: &PostgresServer) -> PgBouncer {
        PgBouncer::start_with(server, "")
    }

    /// Like [`start`](PgBouncer::start), but it ignores unknown startup options instead of refusing
    /// them.
    #[track_caller]
    pub fn start_ignoring_options(server: &PostgresServer) -> PgBouncer {
        PgBouncer::start_with(server, "ignore_startup_parameters = options,extra_float_digits\n")
    }

    #[track_caller]
    fn start_with(server: &PostgresServer, settings: &str) -> PgBouncer {
        let folder = new_folder();
        let (users, ini) = (folder.path().join("users.txt"), folder.path().join("pgbouncer.ini"));
        fs::write(&users, "\"postgres\" \"\"\n").expect("a list of users");
        for _ in 0..4 {
            let port = free_port();
            let text = format!(
                "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
                 unix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = transaction\n\
                 default_pool_size = 4\nmax_client_conn = 1000\nlogfile = {}\n{settings}",
                server.port(),
                users.display(),
                folder.path().join("log").display(),
            );
            fs::write(&ini, text).expect("a configuration");
            let mut command = unprivileged(&path_of("pgbouncer"));
            let command = command.arg("-q").arg(&ini).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut process = Process::start(command);
            let up = until("a pgbouncer that listens", || match process.try_wait() {
                Some(_) => Some(false),
                None => std::net::TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(true),
            });
            if up {
                let kill_on_exit = KillOnExit::quit_and_remove(process.id(), folder.path());
                return PgBouncer { port, _process: process, _kill_on_exit: kill_on_exit, _folder: folder };
            }
        }
        panic!("pgbouncer does not start: {}", fs::read_to_string(folder.path().join("log")).unwrap_or_default())
    }

    /// Its URL, of the database `postgres`.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }
}
