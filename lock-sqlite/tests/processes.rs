//! Several processes on one file: real ones, killed, stopped, with a stepped wall clock, on a full
//! disk, after a power loss.
//!
//! Needs root and the programs `mount`, `mkfs.ext4`, `unshare` and `faketime`; a missing one fails
//! its test.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod fixture;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fixture::{Folder, TTL, acquire, claim, connect, expect_held, free, token};
use libtest_mimic::{Arguments, Trial};
use lock_core::{
    Attempt, Claim, Clock, ErrorKind, Fault, LockName, LockStore, Locks, ReleaseOutcome, RenewalBatch, Space,
};
use lock_sqlite::{SqliteConfig, SqliteStore};

macro_rules! trials {
    ($($name:ident),* $(,)?) => {
        vec![$(Trial::test(stringify!($name), || {
            runtime().block_on($name());
            Ok(())
        })),*]
    };
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().collect();
    if let Some(("child", rest)) = arguments.get(1).map(String::as_str).zip(arguments.get(2..)) {
        runtime().block_on(child(rest));
        return ExitCode::SUCCESS;
    }
    let trials = trials![
        a_killed_holder_loses_its_lease_at_its_end_and_nothing_else,
        what_was_acknowledged_survives_a_kill_at_any_moment,
        processes_can_make_the_same_file_at_once,
        processes_exclude_each_other_and_their_tokens_rise,
        processes_that_write_all_the_time_do_not_starve_each_other,
        a_waiter_wakes_when_another_process_releases,
        a_process_that_is_stopped_inside_its_transaction_is_in_the_way_until_it_ends,
        what_was_acknowledged_survives_a_power_loss,
        a_full_disk_is_unavailable_loses_nothing_and_passes,
        a_read_only_file_system_is_denied,
        a_stepped_wall_clock_neither_frees_nor_pins_a_lock,
        a_time_namespace_with_an_offset_is_refused,
        a_file_that_is_mounted_by_itself_is_refused,
        a_log_that_is_mounted_by_itself_is_refused,
        a_folder_that_is_mounted_elsewhere_is_the_same_folder,
        whoever_comes_by_a_new_name_of_a_file_in_use_is_refused,
        a_log_that_is_taken_away_from_a_holder_lets_nobody_else_in,
        a_folder_that_is_renamed_takes_its_leases_along_and_its_old_users_touch_nothing_new,
        processes_that_end_leave_no_log_behind,
        an_overlay_promises_what_its_upper_layer_does,
        a_machine_without_an_id_knows_its_file_again_after_a_reboot,
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// The program of a child: it prints one line for each step, and reads a line where the test
/// decides when it goes on.
async fn child(arguments: &[String]) {
    let [what, path, rest @ ..] = arguments else { panic!("a child needs an order and a path") };
    let config = SqliteConfig::new(path);
    let text = |at: usize| rest[at].as_str();
    let claim_of = |name: &str, millis: &str| {
        Claim::new(LockName::new(name).unwrap(), Duration::from_millis(millis.parse().unwrap()))
    };
    match what.as_str() {
        "open" => {
            let mut config = config;
            if let Some(millis) = rest.first() {
                config.busy_timeout = Duration::from_millis(millis.parse().unwrap());
            }
            read_line();
            match SqliteStore::open(config).await {
                Ok(store) => print_line(format!("open {}", store.realm())),
                Err(error) => print_line(format!("refused {:?} {error}", error.kind())),
            }
        }
        "promise" => {
            let promised = SqliteStore::open(config).await.unwrap().guarantees().records_survive;
            print_line(promised.contains(Fault::PowerLoss.into()));
        }
        "steps" => {
            let store = SqliteStore::open(config).await.unwrap();
            let claim = claim_of(text(0), text(1));
            print_line(token(&store, &claim).await);
            while let Some(step) = next_line() {
                match step.as_str() {
                    "renew" => {
                        let batch = RenewalBatch::new(&Clock::system(), [claim.clone()]);
                        let renewed = store.renew(&batch).await;
                        let failure = renewed.err().map_or_else(String::new, |error| error.to_string());
                        print_line(format!("{:?} {failure}", batch.iter().next().unwrap().outcome()));
                    }
                    other => panic!("no child does {other}"),
                }
            }
        }
        "closing" => {
            let locks = Locks::new(SqliteStore::open(config).await.unwrap());
            locks.lock(text(0)).acquire().await.unwrap().release().await.unwrap();
            locks.close().await;
            print_line("closed");
            // The engine, and so the store, is still alive: the process ends in the middle of its
            // work.
            std::process::exit(0);
        }
        "hold" => {
            let store = SqliteStore::open(config).await.unwrap();
            let claim = claim_of(text(0), text(1));
            print_line(token(&store, &claim).await);
            read_line();
            print_line(format!("{:?}", store.release(&claim, Duration::ZERO).await.unwrap()));
        }
        "try" => {
            let store = SqliteStore::open(config).await.unwrap();
            let day = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() / 86_400;
            let attempt = store.request(&claim_of(text(0), text(1))).await.unwrap();
            print_line(format!("{day} {}", if matches!(attempt, Attempt::Granted(_)) { "granted" } else { "held" }));
        }
        "loop" => {
            let store = SqliteStore::open(config).await.unwrap();
            for _ in 0..text(1).parse().unwrap() {
                let claim = claim(text(0));
                print_line(token(&store, &claim).await);
                assert_eq!(store.release(&claim, Duration::ZERO).await.unwrap(), ReleaseOutcome::Held);
            }
        }
        "count" => {
            let locks = Locks::new(SqliteStore::open(config).await.unwrap()).for_correctness().unwrap();
            let counter = PathBuf::from(text(0));
            for _ in 0..text(1).parse().unwrap() {
                let guard = locks.lock("counter").acquire().await.unwrap();
                let count: u64 = std::fs::read_to_string(&counter).unwrap().parse().unwrap();
                tokio::task::yield_now().await;
                std::fs::write(&counter, (count + 1).to_string()).unwrap();
                print_line(format!("{} {count}", guard.token().number()));
                guard.release().await.unwrap();
            }
        }
        "write" => {
            let connection = connect(Path::new(path));
            connection.execute_batch("begin immediate; update lease_floor set rows = rows").unwrap();
            print_line("writing");
            read_line();
        }
        other => panic!("no child does {other}"),
    }
}

fn print_line(line: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).unwrap();
}

fn read_line() {
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

fn next_line() -> Option<String> {
    let mut line = String::new();
    (std::io::stdin().read_line(&mut line).unwrap() > 0).then(|| line.trim_end().to_owned())
}

/// A child of this test, killed when it is dropped.
struct Process {
    child: Child,
    stdout: BufReader<ChildStdout>,
    stdin: Option<ChildStdin>,
}

impl Process {
    fn start(arguments: &[&str]) -> Process {
        Process::start_under(&[], arguments)
    }

    /// Under another program, such as `faketime`.
    fn start_under(under: &[&str], arguments: &[&str]) -> Process {
        let this = std::env::current_exe().unwrap();
        let words: Vec<_> = under.iter().copied().chain([this.to_str().unwrap(), "child"]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args(arguments).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{} must be installed for this test: {error}", words[0]));
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stdin = child.stdin.take();
        Process { child, stdout, stdin }
    }

    fn line(&mut self) -> String {
        self.next_line().expect("the child says something")
    }

    fn next_line(&mut self) -> Option<String> {
        let mut line = String::new();
        let length = self.stdout.read_line(&mut line).unwrap();
        (length > 0).then(|| line.trim_end().to_owned())
    }

    fn number(&mut self) -> u64 {
        self.line().parse().unwrap()
    }

    fn send_line(&mut self) {
        self.stdin.as_mut().unwrap().write_all(b"go on\n").unwrap();
    }

    /// Runs a step, and returns the line that it prints.
    fn run_step(&mut self, step: &str) -> String {
        writeln!(self.stdin.as_mut().unwrap(), "{step}").unwrap();
        self.line()
    }

    /// Lets it end by itself: its input ends.
    fn end(mut self) {
        self.stdin = None;
        self.finish();
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn finish(mut self) {
        assert!(self.child.wait().unwrap().success(), "a child failed");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status();
    let status = status.unwrap_or_else(|error| panic!("{program} must be installed for this test: {error}"));
    assert!(status.success(), "{program} {arguments:?} must be allowed for this test: {status}");
}

fn path_of(folder: &Folder) -> String {
    folder.path().to_str().unwrap().to_owned()
}

async fn a_killed_holder_loses_its_lease_at_its_end_and_nothing_else() {
    let folder = Folder::new();
    let path = path_of(&folder);
    let mut long = Process::start(&["hold", &path, "long", "600000"]);
    let mut short = Process::start(&["hold", &path, "short", "700"]);
    let (long_token, short_token) = (long.number(), short.number());
    long.kill();
    short.kill();
    let store = folder.open().await;
    let by = expect_held(&store, &claim("long")).await.by;
    assert_eq!(by.token.unwrap().number(), long_token, "the record survives its process");
    folder.until(|| async { free(&store, "short").await }).await;
    assert!(token(&store, &claim("short")).await > short_token);
    expect_held(&store, &claim("long")).await;
}

async fn what_was_acknowledged_survives_a_kill_at_any_moment() {
    let folder = Folder::new();
    let path = path_of(&folder);
    let mut last = 0;
    for round in 0..8 {
        let mut child = Process::start(&["loop", &path, "x", "1000000"]);
        for _ in 0..round * 7 + 1 {
            let number = child.number();
            assert!(number > last, "{number} after {last}");
            last = number;
        }
        child.child.kill().unwrap();
        while let Some(line) = child.next_line() {
            // The kill may have truncated the last line.
            last = last.max(line.parse().unwrap_or(0));
        }
        child.child.wait().unwrap();
        // The killed holder may have held it.
        let store = folder.open().await;
        if let Some(by) = store.inspect(claim("x").name(), Space::Locks).await.unwrap().pop() {
            store.break_lock(claim("x").name(), &by, lock_core::BreakMode::Now).await.unwrap();
        }
        let check: String = folder.connect().query_row("pragma integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
    }
    assert!(token(&folder.open().await, &claim("x")).await > last);
}

async fn processes_can_make_the_same_file_at_once() {
    for _ in 0..5 {
        let folder = Folder::new();
        let mut children: Vec<_> = (0..4).map(|_| Process::start(&["open", &path_of(&folder)])).collect();
        children.iter_mut().for_each(Process::send_line);
        let mut output: Vec<_> = children.iter_mut().map(Process::line).collect();
        assert!(output.iter().all(|line| line.starts_with("open sqlite:")), "{output:?}");
        output.dedup();
        assert_eq!(output.len(), 1, "one file has one realm: {output:?}");
        children.into_iter().for_each(Process::finish);
    }
}

async fn processes_exclude_each_other_and_their_tokens_rise() {
    let folder = Folder::new();
    let counter = folder.path().with_file_name("counter");
    std::fs::write(&counter, "0").unwrap();
    let (rounds, path) = (40, path_of(&folder));
    let start = || Process::start(&["count", &path, counter.to_str().unwrap(), &rounds.to_string()]);
    let children: Vec<_> = (0..3).map(|_| start()).collect();
    let mut grants = Vec::new();
    for mut child in children {
        while let Some(line) = child.next_line() {
            let (token, count) = line.split_once(' ').unwrap();
            grants.push((token.parse::<u64>().unwrap(), count.parse::<u64>().unwrap()));
        }
        child.finish();
    }
    grants.sort_unstable();
    assert_eq!(grants.len(), 3 * rounds);
    // In the order of their tokens the counts follow each other: no token was given twice, and no
    // lease overlapped.
    assert!(grants.windows(2).all(|pair| pair[0].0 < pair[1].0), "{grants:?}");
    assert!(grants.iter().map(|(_, count)| *count).eq(0..3 * rounds as u64), "{grants:?}");
}

async fn processes_that_write_all_the_time_do_not_starve_each_other() {
    let folder = Folder::new();
    let path = path_of(&folder);
    folder.open().await;
    let children: Vec<_> = ["a", "b", "c"].map(|name| Process::start(&["loop", &path, name, "200"])).into();
    for mut child in children {
        let mut lines = 0;
        while child.next_line().is_some() {
            lines += 1;
        }
        assert_eq!(lines, 200, "a step was refused because the others were busy");
        child.finish();
    }
}

async fn a_waiter_wakes_when_another_process_releases() {
    let folder = Folder::new();
    let mut holder = Process::start(&["hold", &path_of(&folder), "x", "600000"]);
    let theirs = holder.number();
    let store = folder.open().await;
    let mine = claim("x");
    let waiting = expect_held(&store, &mine).await;
    assert!(waiting.retry_after > Duration::from_secs(500), "not the end of the lease wakes it");
    holder.send_line();
    tokio::time::timeout(Duration::from_secs(60), store.wait(&mine, &waiting)).await.unwrap().unwrap();
    assert_eq!(holder.line(), "Held");
    assert!(token(&store, &mine).await > theirs);
    holder.finish();
}

async fn a_process_that_is_stopped_inside_its_transaction_is_in_the_way_until_it_ends() {
    let folder = Folder::new();
    let mut config = folder.config();
    config.busy_timeout = Duration::from_millis(100);
    let store = SqliteStore::open(config).await.unwrap();
    let mine = claim("mine");
    acquire(&store, &mine).await;
    let mut writer = Process::start(&["write", &path_of(&folder)]);
    assert_eq!(writer.line(), "writing");
    run("kill", &["-STOP", &writer.child.id().to_string()]);
    for name in ["x", "y"] {
        let error = store.request(&claim(name)).await.unwrap_err();
        assert_eq!((error.kind(), error.may_have_taken_effect()), (ErrorKind::Unavailable, false), "{error}");
    }
    assert!(!free(&store, "mine").await, "reading goes on");
    writer.kill();
    acquire(&store, &claim("x")).await;
    assert_eq!(store.release(&mine, Duration::ZERO).await.unwrap(), ReleaseOutcome::Held);
}

/// A small file system, unmounted on drop.
struct Mounted(PathBuf);

impl Mounted {
    fn in_memory(folder: &Folder) -> Mounted {
        Mounted::new(folder, "memory", &["-t", "tmpfs", "-o", "size=512k", "tmpfs"])
    }

    /// On a disk that is itself a file.
    fn on(folder: &Folder, disk: &Path) -> Mounted {
        let name = format!("on-{}", disk.file_name().unwrap().to_str().unwrap());
        Mounted::new(folder, &name, &["-o", "loop", disk.to_str().unwrap()])
    }

    fn new(folder: &Folder, name: &str, arguments: &[&str]) -> Mounted {
        let at = folder.path().with_file_name(name);
        std::fs::create_dir(&at).unwrap();
        run("mount", &[arguments, &[at.to_str().unwrap()]].concat());
        Mounted(at)
    }

    fn config(&self) -> SqliteConfig {
        SqliteConfig::new(self.0.join("locks.db"))
    }

    /// Writes until the disk is full; returns the file that fills it.
    fn fill(&self) -> PathBuf {
        let filler = self.0.join("filler");
        let mut file = std::fs::File::create(&filler).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        filler
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A power loss leaves what is on the disk, and not what is in the memory of its file system. So
/// the disk is copied while the store is in use, and the copy is examined.
async fn what_was_acknowledged_survives_a_power_loss() {
    let folder = Folder::new();
    let disk = folder.path().with_file_name("disk");
    std::fs::File::create(&disk).unwrap().set_len(16 << 20).unwrap();
    run("mkfs.ext4", &["-q", disk.to_str().unwrap()]);
    let before = Mounted::on(&folder, &disk);
    let store = SqliteStore::open(before.config()).await.unwrap();
    let mine = claim("mine");
    let mut last = 0;
    for round in 0..3 {
        let released = claim("released");
        last = token(&store, &released).await.max(last);
        assert_eq!(store.release(&released, Duration::ZERO).await.unwrap(), ReleaseOutcome::Held);
        let kept = acquire(&store, &mine).await.token.unwrap();
        std::fs::write(before.0.join("not synced"), "x".repeat(5000)).unwrap();
        let copy = folder.path().with_file_name(format!("disk-{round}"));
        std::fs::copy(&disk, &copy).unwrap();

        let after = Mounted::on(&folder, &copy);
        let left = std::fs::read(after.0.join("not synced")).unwrap_or_default();
        assert!(left.is_empty(), "the copy has what was never synced, so that it proves nothing");
        let found = SqliteStore::open(after.config()).await.unwrap();
        let by = expect_held(&found, &claim("mine")).await.by;
        assert_eq!((by.holder, by.token), (Some(mine.holder()), Some(kept)));
        assert!(free(&found, "released").await);
        assert!(token(&found, &claim("released")).await > last);
        std::fs::remove_file(before.0.join("not synced")).unwrap();
    }
}

async fn a_full_disk_is_unavailable_loses_nothing_and_passes() {
    let folder = Folder::new();
    let small = Mounted::in_memory(&folder);
    let store = Arc::new(SqliteStore::open(small.config()).await.unwrap());
    let mine = claim("mine");
    let first = token(&store, &mine).await;
    let filler = small.fill();
    // More concurrent requests than fit on one page, in one transaction: each gets its error.
    let others: Vec<_> = (0..20).map(|n| claim(&format!("{n}-{}", "x".repeat(400)))).collect();
    let asking = others.iter().map(|other| {
        let (store, other) = (store.clone(), other.clone());
        tokio::spawn(async move { store.request(&other).await.unwrap_err() })
    });
    for asked in asking.collect::<Vec<_>>() {
        let error = asked.await.unwrap();
        assert_eq!((error.kind(), error.may_have_taken_effect()), (ErrorKind::Unavailable, false), "{error:?}");
        assert!(error.to_string().contains("full") && error.is_retryable(), "{error}");
    }
    let by = expect_held(&store, &claim("mine")).await.by;
    assert_eq!((by.holder, by.token.unwrap().number()), (Some(mine.holder()), first));
    std::fs::remove_file(filler).unwrap();
    for other in &others {
        acquire(&store, other).await;
    }
    assert_eq!(store.release(&mine, Duration::ZERO).await.unwrap(), ReleaseOutcome::Held);
    drop(store);

    let _filler = small.fill();
    let error = SqliteStore::open(SqliteConfig::new(small.0.join("new.db"))).await.unwrap_err();
    assert_eq!((error.kind(), error.may_have_taken_effect()), (ErrorKind::Unavailable, false), "{error:?}");
    assert!(error.to_string().contains("new.db"), "{error}");
}

async fn a_read_only_file_system_is_denied() {
    let folder = Folder::new();
    let small = Mounted::in_memory(&folder);
    let store = SqliteStore::open(small.config()).await.unwrap();
    acquire(&store, &claim("x")).await;
    drop(store);
    let log = small.0.join("locks.db-wal");
    folder.until(|| async { !log.exists() }).await;
    let at = small.0.to_str().unwrap();
    folder
        .until(|| async {
            let remount = Command::new("mount").args(["-o", "remount,ro", at]).stderr(Stdio::null()).status();
            remount.unwrap().success()
        })
        .await;
    for path in [small.config().path, small.0.join("new.db")] {
        let error = SqliteStore::open(SqliteConfig::new(&path)).await.unwrap_err();
        assert_eq!((error.kind(), error.may_have_taken_effect()), (ErrorKind::Denied, false), "{error:?}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}

async fn a_stepped_wall_clock_neither_frees_nor_pins_a_lock() {
    let folder = Folder::new();
    let path = path_of(&folder);
    let store = folder.open().await;
    acquire(&store, &claim("mine")).await;
    let today = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() / 86_400;
    for (step, day) in [("+10d", today + 10), ("-10d", today - 10)] {
        // A process whose wall clock was set sees the lease of another,
        let mut stepped = Process::start_under(&["faketime", "-f", step], &["try", &path, "mine", "1000"]);
        let output = stepped.line();
        let (its_day, answer) = output.split_once(' ').unwrap();
        assert!(
            its_day.parse::<u64>().unwrap().abs_diff(day) <= 1,
            "its clock was not set: {output}, today is {today}"
        );
        assert_eq!(answer, "held");
        stepped.finish();
        // and the lease that it takes ends at its TTL.
        let name = format!("theirs{step}");
        let mut stepped = Process::start_under(&["faketime", "-f", step], &["try", &path, &name, "400"]);
        assert!(stepped.line().ends_with("granted"));
        stepped.finish();
        let long = format!("long{step}");
        let mut stepped = Process::start_under(&["faketime", "-f", step], &["try", &path, &long, "60000"]);
        assert!(stepped.line().ends_with("granted"));
        stepped.finish();
        let left = store
            .inspect(&LockName::new(&long).unwrap(), Space::Locks)
            .await
            .unwrap()
            .pop()
            .unwrap()
            .remaining
            .unwrap();
        assert!(left <= TTL && left > TTL / 4, "{left:?}");
        folder.until(|| async { free(&store, &name).await }).await;
    }
}

async fn a_time_namespace_with_an_offset_is_refused() {
    let folder = Folder::new();
    let path = path_of(&folder);
    folder.open().await;
    let mut shifted = Process::start_under(&["unshare", "--time", "--boottime", "1000"], &["open", &path]);
    shifted.send_line();
    let output = shifted.line();
    assert!(output.starts_with("refused InvalidConfig") && output.contains("time namespace"), "{output}");
    shifted.finish();
    // Without an offset the clock is the machine's own.
    let mut same = Process::start_under(&["unshare", "--time"], &["open", &path]);
    same.send_line();
    assert!(same.line().starts_with("open sqlite:"));
    same.finish();
}

/// A shell that runs `setup` in a mount namespace of its own, and then the command that follows.
///
/// It works in a root that is no mount of its own too, as after `chroot`: nothing can be made
/// private there.
fn in_container(setup: &str) -> [String; 7] {
    let script = format!("mount --make-rprivate / 2>/dev/null || :; {setup}; exec \"$0\" \"$@\"");
    ["unshare", "-m", "--propagation", "unchanged", "sh", "-ec", &script].map(str::to_owned)
}

impl Process {
    fn start_in(container: &[String; 7], arguments: &[&str]) -> Process {
        Process::start_under(&container.each_ref().map(String::as_str), arguments)
    }

    /// The output of a child with a short `busy_timeout` that opens this path in this container.
    fn open_in(container: &[String; 7], path: &Path) -> String {
        let mut child = Process::start_in(container, &["open", path.to_str().unwrap(), "300"]);
        child.send_line();
        let output = child.line();
        child.finish();
        output
    }

    fn open(path: &Path) -> String {
        Process::open_in(&in_container(":"), path)
    }
}

fn sidecar_path(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

async fn a_file_that_is_mounted_by_itself_is_refused() {
    let folder = Folder::new();
    let mut holder = Process::start(&["hold", &path_of(&folder), "x", "600000"]);
    holder.number();
    let inside = folder.path().with_file_name("inside");
    std::fs::write(&inside, "").unwrap();
    let container = in_container(&format!("mount --bind {} {}", path_of(&folder), inside.display()));
    let output = Process::open_in(&container, &inside);
    assert!(output.starts_with("refused InvalidConfig") && output.contains("mount the folder"), "{output}");
    assert!(!sidecar_path(&inside, "-wal").exists(), "it was looked at, and nothing was made");
}

async fn a_log_that_is_mounted_by_itself_is_refused() {
    for suffix in ["-wal", "-shm"] {
        let folder = Folder::new();
        let mut holder = Process::start(&["hold", &path_of(&folder), "x", "600000"]);
        holder.number();
        let other = folder.path().with_file_name("other");
        std::fs::write(&other, "").unwrap();
        let log = sidecar_path(&folder.path(), suffix);
        let container = in_container(&format!("mount --bind {} {}", other.display(), log.display()));
        let output = Process::open_in(&container, &folder.path());
        assert!(output.starts_with("refused InvalidConfig") && output.contains("single file"), "{output}");
    }
}

async fn a_folder_that_is_mounted_elsewhere_is_the_same_folder() {
    let folder = Folder::new();
    let inside = folder.path().with_file_name("inside");
    let outside = folder.path().with_file_name("outside");
    std::fs::create_dir(&inside).unwrap();
    std::fs::create_dir(&outside).unwrap();
    let container = in_container(&format!("mount --bind {} {}", outside.display(), inside.display()));
    let path = inside.join("locks.db");
    let mut holder = Process::start_in(&container, &["hold", path.to_str().unwrap(), "x", "600000"]);
    let theirs = holder.number();
    let store = SqliteStore::open(SqliteConfig::new(outside.join("locks.db"))).await.unwrap();
    assert_eq!(expect_held(&store, &claim("x")).await.by.token.unwrap().number(), theirs);
    holder.send_line();
    assert_eq!(holder.line(), "Held");
    holder.finish();
    assert!(token(&store, &claim("x")).await > theirs);
}

async fn whoever_comes_by_a_new_name_of_a_file_in_use_is_refused() {
    let folder = Folder::new();
    let mut holder = Process::start(&["steps", &path_of(&folder), "x", "600000"]);
    let first = holder.number();
    let moved = folder.path().with_file_name("moved.db");
    std::fs::rename(folder.path(), &moved).unwrap();
    let output = Process::open(&moved);
    assert!(output.starts_with("refused InvalidConfig") && output.contains("is in use with another"), "{output}");
    assert!(!sidecar_path(&moved, "-wal").exists(), "it was looked at, and nothing was made");
    let output = holder.run_step("renew");
    assert!(output.starts_with("Some(NotHeld)") && output.contains("removed or replaced"), "{output}");
    // It closes the file, and its writes stay with the file.
    folder.until(|| async { SqliteStore::open(SqliteConfig::new(&moved)).await.is_ok() }).await;
    let store = SqliteStore::open(SqliteConfig::new(&moved)).await.unwrap();
    assert_eq!(expect_held(&store, &claim("x")).await.by.token.unwrap().number(), first);
    holder.end();
}

async fn a_log_that_is_taken_away_from_a_holder_lets_nobody_else_in() {
    type TakeAway = fn(&Path);
    let remove: TakeAway = |file| std::fs::remove_file(file).unwrap();
    let rename: TakeAway = |file| std::fs::rename(file, sidecar_path(file, ".old")).unwrap();
    let replace: TakeAway = |file| {
        run("cp", &[file.to_str().unwrap(), sidecar_path(file, ".copy").to_str().unwrap()]);
        std::fs::rename(sidecar_path(file, ".copy"), file).unwrap();
    };
    for (endings, take_away, is_replaced) in [
        (&["-wal", "-shm"][..], remove, false),
        (&["-wal"], remove, false),
        (&["-shm"], remove, false),
        (&["-wal", "-shm"], rename, false),
        (&["-wal"], replace, true),
    ] {
        let folder = Folder::new();
        let path = path_of(&folder);
        let mut holder = Process::start(&["steps", &path, "x", "600000"]);
        let first = holder.number();
        endings.iter().for_each(|suffix| take_away(&sidecar_path(&folder.path(), suffix)));
        let output = Process::open(&folder.path());
        assert!(output.starts_with("refused InvalidConfig") && output.contains("-wal"), "{endings:?}: {output}");
        let output = holder.run_step("renew");
        assert!(output.starts_with("Some(NotHeld)") && output.contains("removed or replaced"), "{endings:?}: {output}");
        if is_replaced {
            // The files that were put there are older than what the holder has merged.
            std::fs::remove_file(sidecar_path(&folder.path(), "-wal")).unwrap();
        }
        // The holder closes the file; its record and its token are not lost.
        folder.until(|| async { SqliteStore::open(folder.config()).await.is_ok() }).await;
        let store = folder.open().await;
        assert_eq!(expect_held(&store, &claim("x")).await.by.token.unwrap().number(), first, "{endings:?}");
        let by = expect_held(&store, &claim("x")).await.by;
        store.break_lock(claim("x").name(), &by, lock_core::BreakMode::Now).await.unwrap();
        assert!(token(&store, &claim("x")).await > first);
        holder.end();
        assert!(!free(&store, "x").await, "the end of one who had to let go changes nothing");
    }
}

async fn a_folder_that_is_renamed_takes_its_leases_along_and_its_old_users_touch_nothing_new() {
    let folder = Folder::new();
    let (old, new) = (folder.path().with_file_name("old"), folder.path().with_file_name("new"));
    std::fs::create_dir(&old).unwrap();
    let mut holder = Process::start(&["steps", old.join("locks.db").to_str().unwrap(), "x", "600000"]);
    let theirs = holder.number();
    std::fs::rename(&old, &new).unwrap();
    let store = SqliteStore::open(SqliteConfig::new(new.join("locks.db"))).await.unwrap();
    assert_eq!(expect_held(&store, &claim("x")).await.by.token.unwrap().number(), theirs);
    // Another file appears at the old path, and is in use when the earlier user ends.
    std::fs::create_dir(&old).unwrap();
    let another = SqliteStore::open(SqliteConfig::new(old.join("locks.db"))).await.unwrap();
    let mine = claim("x");
    acquire(&another, &mine).await;
    drop(store);
    assert!(holder.run_step("renew").starts_with("Some(NotHeld)"));
    holder.end();
    assert_eq!(another.release(&mine, Duration::ZERO).await.unwrap(), ReleaseOutcome::Held);
    assert!(Process::open(&new.join("locks.db")).starts_with("open"));
}

async fn processes_that_end_leave_no_log_behind() {
    let folder = Folder::new();
    let path = path_of(&folder);
    for mut child in ["a", "b"].map(|name| Process::start(&["closing", &path, name])) {
        assert_eq!(child.line(), "closed");
        child.finish();
    }
    let mut last = Process::start(&["closing", &path, "a"]);
    assert_eq!(last.line(), "closed");
    last.finish();
    for suffix in ["-wal", "-shm"] {
        assert!(!sidecar_path(&folder.path(), suffix).exists(), "{suffix} stays");
    }
    // So a plain copy has everything.
    let copy = folder.path().with_file_name("copy.db");
    std::fs::copy(folder.path(), &copy).unwrap();
    let store = SqliteStore::open(SqliteConfig::new(copy)).await.unwrap();
    assert_eq!(token(&store, &claim("a")).await, 3);
}

async fn an_overlay_promises_what_its_upper_layer_does() {
    for (folder, survives) in [(Folder::on_disk(), "true"), (Folder::in_memory(), "false")] {
        let at = folder.path().parent().unwrap().display().to_string();
        let container = in_container(&format!(
            "cd {at}; mkdir lower upper work merged; \
             mount -t overlay -o lowerdir={at}/lower,upperdir={at}/upper,workdir={at}/work overlay merged"
        ));
        let mut child = Process::start_in(&container, &["promise", &format!("{at}/merged/locks.db")]);
        assert_eq!(child.line(), survives);
        child.finish();
    }
    // Its upper layer is out of sight, as it is in most containers.
    let folder = Folder::on_disk();
    let at = folder.path().parent().unwrap().display().to_string();
    let container = in_container(&format!(
        "cd {at}; mkdir lower up up/upper up/work merged; \
         mount -t overlay -o lowerdir={at}/lower,upperdir={at}/up/upper,workdir={at}/up/work overlay merged; \
         mount -t tmpfs tmpfs up"
    ));
    let mut child = Process::start_in(&container, &["promise", &format!("{at}/merged/locks.db")]);
    assert_eq!(child.line(), "false");
    child.finish();
}

async fn a_machine_without_an_id_knows_its_file_again_after_a_reboot() {
    let folder = Folder::new();
    let path = path_of(&folder);
    let boot = folder.path().with_file_name("boot");
    std::fs::write(&boot, "11111111-2222-3333-4444-555555555555\n").unwrap();
    let nameless = "for id in /etc/machine-id /var/lib/dbus/machine-id; do \
                        if test -e $id; then mount --bind /dev/null $id; fi; done";
    let now = in_container(nameless);
    let later = in_container(&format!("{nameless}; mount --bind {} /proc/sys/kernel/random/boot_id", boot.display()));
    let mut holder = Process::start_in(&now, &["steps", &path, "x", "600000"]);
    let first = holder.number();
    holder.kill();
    // Another process of the same boot sees the lease,
    let mut other = Process::start_in(&now, &["try", &path, "x", "1000"]);
    assert!(other.line().ends_with("held"));
    other.finish();
    // and after a reboot it has ended.
    let mut next = Process::start_in(&later, &["hold", &path, "x", "600000"]);
    assert!(next.number() > first);
    next.kill();

    // A copy from before the reboot may be another machine's.
    let copy = folder.path().with_file_name("copy.db");
    folder.write(&format!("vacuum into '{}'", copy.display()));
    let output = Process::open_in(&now, &copy);
    assert!(output.starts_with("refused InvalidConfig") && output.contains("another machine"), "{output}");
}
