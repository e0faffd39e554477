//! Go's `concurrency.Mutex` and this store exclude each other, in one queue, and tokens rise over
//! both.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use lock_testkit::{Etcd, Process, WAIT_TIMEOUT, until};

use crate::fixture::{keys, locks, secs, shared_server, unique_name, within_bound};
use crate::interop::{append, etcdctl, numbers};

/// The program in `tests/go-mutex`, built once.
fn program() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-mutex");
        let build = || {
            let mut build = Command::new("go");
            build
                .args(["build", "-mod=readonly", "-buildvcs=false", "-o"])
                .arg(&built)
                .arg(".")
                .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/go-mutex"))
                .envs([("CGO_ENABLED", "0"), ("GOTOOLCHAIN", "local"), ("GO111MODULE", "on")])
                .env_remove("GOFLAGS");
            let output = build.output().unwrap_or_else(|error| panic!("go: {error}; ./test.sh installs it"));
            output.status.success().then_some(()).ok_or_else(|| String::from_utf8_lossy(&output.stderr).into_owned())
        };
        // Its modules come over the network the first time, which may fail for a moment.
        let built_at_last = (0..5).find_map(|tries| {
            std::thread::sleep(Duration::from_secs(tries));
            build().map_err(|error| println!("{error}")).ok()
        });
        built_at_last.expect("the Go program is built");
        built
    })
}

/// A holder in Go.
struct GoMutex {
    process: Process,
    said: mpsc::Receiver<String>,
    input: ChildStdin,
}

impl GoMutex {
    /// Starts a holder that acquires and releases the lock this number of times.
    fn start(etcd: &Etcd, name: &str, times: u32) -> GoMutex {
        let mut command = Command::new(program());
        command.args([&etcd.endpoints().join(","), name, &times.to_string()]);
        let mut process = Process::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let input = process.child().stdin.take().unwrap();
        let lines = BufReader::new(process.child().stdout.take().unwrap()).lines();
        let (say, said) = mpsc::channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| say.send(line)));
        GoMutex { process, said, input }
    }

    /// The token of its next grant, when it comes.
    fn granted(&self) -> u64 {
        self.said.recv_timeout(WAIT_TIMEOUT).expect("a grant").parse().unwrap()
    }

    fn waits(&self) -> bool {
        matches!(self.said.try_recv(), Err(mpsc::TryRecvError::Empty))
    }

    fn unlock(&mut self) {
        writeln!(self.input).unwrap();
        assert_eq!(self.said.recv_timeout(WAIT_TIMEOUT).expect("its end"), "unlocked");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gos_mutex_waits_for_ours_and_ours_for_gos_mutex_in_the_order_of_their_coming() {
    let (etcd, name) = (shared_server(), unique_name("go-fifo"));
    let locks = locks(etcd.endpoints(), secs(60)).await;
    let places = |count| until("its place", || (keys(etcd, name.as_str()).len() == count).then_some(()));
    let first = locks.lock(&name).acquire().await.unwrap();
    let mut second = GoMutex::start(etcd, name.as_str(), 1);
    places(2);
    let third = tokio::spawn(locks.lock(&name).acquire());
    places(3);
    let mut fourth = GoMutex::start(etcd, name.as_str(), 1);
    places(4);
    assert!(second.waits(), "Go holds what we hold");

    let mut tokens = vec![first.token_if_any().unwrap().number()];
    first.release().await.unwrap();
    tokens.push(second.granted());
    assert!(!third.is_finished(), "we hold what Go holds");
    assert!(locks.lock(&name).try_acquire().await.unwrap().is_none());

    second.unlock();
    let third = within_bound("our turn", third).await.unwrap().unwrap();
    tokens.push(third.token_if_any().unwrap().number());
    assert!(fourth.waits(), "Go holds what we hold");

    third.release().await.unwrap();
    tokens.push(fourth.granted());
    fourth.unlock();
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
    second.process.wait();
    fourth.process.wait();
    assert!(keys(etcd, name.as_str()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tokens_of_a_hundred_holders_of_ours_of_etcdctl_and_of_go_rise_strictly() {
    let (etcd, name) = (shared_server(), unique_name("three-kinds"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    let locks = locks(etcd.endpoints(), secs(60)).await;
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for _ in 0..4 {
        let (locks, name, file) = (locks.clone(), name.clone(), file.clone());
        ours.push(tokio::spawn(async move {
            for _ in 0..10 {
                let guard = locks.lock(&name).acquire().await.unwrap();
                append(&file, guard.token_if_any().unwrap().number());
                guard.release().await.unwrap();
            }
        }));
    }
    for _ in 0..3 {
        let (go_name, go_file) = (name.clone(), file.clone());
        theirs.push(std::thread::spawn(move || {
            let mut go = GoMutex::start(shared_server(), go_name.as_str(), 10);
            for _ in 0..10 {
                append(&go_file, go.granted());
                go.unlock();
            }
            go.process.wait();
        }));
        let (name, file) = (name.clone(), file.clone());
        theirs.push(std::thread::spawn(move || {
            for _ in 0..10 {
                let script = "echo $ETCD_LOCK_REV >> $0";
                assert!(etcdctl(shared_server(), name.as_str(), script, &file).status().unwrap().success());
            }
        }));
    }
    for task in ours {
        task.await.unwrap();
    }
    tokio::task::spawn_blocking(move || theirs.into_iter().for_each(|thread| thread.join().unwrap())).await.unwrap();
    let tokens = numbers(&file);
    assert_eq!(tokens.len(), 100);
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
}
