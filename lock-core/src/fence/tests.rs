use std::fs::{self, File};
use std::future::Future;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::thread;

use super::*;
use crate::words::{Error, ErrorKind};

fn name(text: &str) -> LockName {
    LockName::new(text).unwrap()
}

fn token(number: u64) -> FencingToken {
    FencingToken::new(Realm::new("test:one"), number)
}

fn foreign(number: u64) -> FencingToken {
    FencingToken::new(Realm::new("test:two"), number)
}

/// A directory for a fence's file, removed at the end of the test.
fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("invoices.fence");
    (directory, path)
}

/// Runs the same test with a fence in memory and with one in a file.
fn on_both(test: impl Fn(Fence)) {
    test(Fence::in_memory());
    let (_directory, path) = place();
    test(Fence::open(path).unwrap());
}

fn kind<T: fmt::Debug>(refused: Result<T>) -> ErrorKind {
    refused.unwrap_err().kind()
}

#[test]
fn a_smaller_token_is_refused_and_an_equal_or_greater_one_admitted() {
    on_both(|fence| {
        for number in [5, 5, 6, u64::MAX] {
            drop(fence.enter_blocking(&name("a"), &token(number)).unwrap());
        }
        assert_eq!(kind(fence.enter_blocking(&name("a"), &token(u64::MAX - 1))), ErrorKind::Fenced);
        assert_eq!(fence.highest(&name("a")).unwrap(), Some(token(u64::MAX)));
    });
}

#[test]
fn names_have_numbers_of_their_own() {
    on_both(|fence| {
        fence.raise(&name("b"), &token(9)).unwrap();
        fence.raise(&name("a"), &token(1)).unwrap();
        assert_eq!(fence.highest(&name("c")).unwrap(), None);
        assert_eq!(fence.list().unwrap(), [(name("a"), token(1)), (name("b"), token(9))]);
    });
}

#[test]
fn a_refusal_names_both_tokens_and_what_to_do() {
    on_both(|fence| {
        fence.raise(&name("a"), &token(8)).unwrap();
        let text = fence.enter_blocking(&name("a"), &token(7)).unwrap_err().to_string();
        assert!(text.contains("7 of test:one") && text.contains("seen 8") && text.contains("acquire"), "{text}");
        let text = fence.enter_blocking(&name("a"), &foreign(9)).unwrap_err().to_string();
        assert!(text.contains("9 of test:two") && text.contains("8 of test:one") && text.contains("adopt"), "{text}");
    });
}

#[test]
fn a_foreign_realm_is_refused_until_it_is_adopted_and_then_the_old_one_is() {
    on_both(|fence| {
        fence.raise(&name("a"), &token(8)).unwrap();
        for asked in ["a", "never seen"] {
            assert_eq!(kind(fence.enter_blocking(&name(asked), &foreign(100))), ErrorKind::Fenced);
        }
        fence.adopt(foreign(0).realm()).unwrap();
        assert_eq!(fence.highest(&name("a")).unwrap(), None, "every number starts anew");
        assert_eq!(kind(fence.enter_blocking(&name("a"), &token(9))), ErrorKind::Fenced);
        fence.raise(&name("a"), &foreign(1)).unwrap();
        assert_eq!(fence.highest(&name("a")).unwrap(), Some(foreign(1)));
    });
}

#[test]
fn adopting_the_realm_that_a_fence_has_forgets_nothing() {
    on_both(|fence| {
        fence.raise(&name("a"), &token(8)).unwrap();
        fence.adopt(token(0).realm()).unwrap();
        assert_eq!(kind(fence.enter_blocking(&name("a"), &token(7))), ErrorKind::Fenced);
    });
}

#[test]
fn an_adopted_realm_is_kept_before_its_first_token() {
    let (_directory, path) = place();
    Fence::open(&path).unwrap().adopt(token(0).realm()).unwrap();
    let fence = Fence::open(&path).unwrap();
    assert_eq!(kind(fence.enter_blocking(&name("a"), &foreign(1))), ErrorKind::Fenced);
}

#[tokio::test]
async fn a_greater_token_waits_until_the_pass_is_dropped() {
    let (_directory, path) = place();
    for fence in [Fence::in_memory(), Fence::open(path).unwrap()] {
        let (a, newer) = (name("a"), token(2));
        let pass = fence.enter(&a, &token(1)).await.unwrap();
        let mut later = pin!(fence.enter(&a, &newer));
        assert!(later.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert_eq!(fence.highest(&name("a")).unwrap(), Some(token(1)), "nobody entered yet");
        drop(fence.enter(&name("b"), &token(1)).await.unwrap());
        drop(pass);
        assert_eq!(later.await.unwrap().token(), &token(2));
    }
}

#[tokio::test]
async fn an_entry_that_is_dropped_while_it_waits_blocks_nobody() {
    let fence = Fence::in_memory();
    let pass = fence.enter(&name("a"), &token(1)).await.unwrap();
    {
        let (a, newer) = (name("a"), token(2));
        let mut given_up = pin!(fence.enter(&a, &newer));
        assert!(given_up.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    drop(pass);
    drop(fence.enter(&name("a"), &token(1)).await.unwrap());
}

#[tokio::test]
async fn work_under_a_refused_token_is_not_begun() {
    let fence = Fence::in_memory();
    assert_eq!(fence.write(&name("a"), &token(2), async { 7 }).await.unwrap(), 7);
    let refused = fence.write(&name("a"), &token(1), async { panic!("begun") }).await;
    assert_eq!(kind(refused), ErrorKind::Fenced);
}

#[tokio::test]
async fn gates_of_names_that_nobody_is_in_are_forgotten() {
    let fence = Fence::in_memory();
    for at in 0..1_000 {
        drop(fence.enter(&name(&format!("n{at}")), &token(1)).await.unwrap());
    }
    assert!(locked(&fence.0.gates).by_name.len() < 200);
}

#[test]
fn a_fence_in_a_file_is_entered_inside_a_runtime_or_blocking() {
    let (_directory, path) = place();
    let fence = Fence::open(path).unwrap();
    let (name, token) = (name("a"), token(1));
    assert_eq!(kind(block_on(fence.enter(&name, &token))), ErrorKind::InvalidConfig);
    drop(fence.enter_blocking(&name, &token).unwrap());
}

/// Many writers with rising tokens; each checks at its write that no greater token wrote before.
fn writes_never_go_down(fences: &[Fence]) {
    let written = AtomicU64::new(0);
    thread::scope(|scope| {
        for start in 1..=4_u64 {
            let (written, fence) = (&written, &fences[start as usize % fences.len()]);
            scope.spawn(move || {
                for number in (start..160).step_by(4) {
                    let pass = match fence.enter_blocking(&name("a"), &token(number)) {
                        Ok(pass) => pass,
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::Fenced);
                            continue;
                        }
                    };
                    // The pause between check and write, in which another writer could enter.
                    (0..20).for_each(|_| thread::yield_now());
                    let before = written.swap(number, Ordering::SeqCst);
                    assert!(before < number, "{number} was written after {before}");
                    drop(pass);
                }
            });
        }
    });
    assert_eq!(written.load(Ordering::SeqCst), 159);
}

#[test]
fn a_pass_holds_across_check_and_write() {
    writes_never_go_down(&[Fence::in_memory()]);
    let (_directory, path) = place();
    writes_never_go_down(&[Fence::open(path).unwrap()]);
}

#[test]
fn two_handles_of_one_file_exclude_each_other() {
    let (_directory, path) = place();
    writes_never_go_down(&[Fence::open(&path).unwrap(), Fence::open(&path).unwrap()]);
}

#[test]
fn the_file_is_locked_while_any_pass_is_out() {
    let (_directory, path) = place();
    let fence = Fence::open(&path).unwrap();
    let other = File::open(&path).unwrap();
    let a = fence.enter_blocking(&name("a"), &token(1)).unwrap();
    let b = fence.enter_blocking(&name("b"), &token(1)).unwrap();
    for pass in [a, b] {
        assert!(other.try_lock().is_err());
        drop(pass);
    }
    other.try_lock().unwrap();
}

#[test]
fn a_runtime_ends_although_an_entry_waits_for_another_handle() {
    let (_directory, path) = place();
    let (one, two) = (Fence::open(&path).unwrap(), Fence::open(&path).unwrap());
    let pass = one.enter_blocking(&name("a"), &token(1)).unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    let waiting = two.clone();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (a, newer) = (name("a"), token(2));
            let mut entry = pin!(waiting.enter(&a, &newer));
            // Until the entry has found the lock taken and its thread waits.
            while !fs::read_dir("/proc/self/task").unwrap().any(|task| {
                fs::read_to_string(task.unwrap().path().join("comm")).is_ok_and(|name| name == "leasehold-fence\n")
            }) {
                tokio::select! { _ = &mut entry => panic!("two are in"), () = tokio::task::yield_now() => {} }
            }
        });
        drop(runtime);
        sender.send(()).unwrap();
    });
    receiver.recv_timeout(std::time::Duration::from_secs(60)).expect("the runtime waits for another handle's pass");
    drop(pass);
    drop(two.enter_blocking(&name("a"), &token(3)).unwrap());
}

#[test]
fn what_another_handle_saw_counts() {
    let (_directory, path) = place();
    let (one, two) = (Fence::open(&path).unwrap(), Fence::open(&path).unwrap());
    one.raise(&name("a"), &token(5)).unwrap();
    assert_eq!(kind(two.enter_blocking(&name("a"), &token(4))), ErrorKind::Fenced);
    two.adopt(foreign(0).realm()).unwrap();
    assert_eq!(kind(one.enter_blocking(&name("a"), &token(6))), ErrorKind::Fenced);
}

#[test]
fn a_token_is_in_the_file_before_its_pass_is_given_out_and_a_known_one_costs_no_write() {
    let (_directory, path) = place();
    let fence = Fence::open(&path).unwrap();
    let pass = fence.enter_blocking(&name("a"), &token(5)).unwrap();
    let before = fs::read(&path).unwrap();
    assert_eq!(Fence::open(&path).unwrap().highest(&name("a")).unwrap(), Some(token(5)));
    drop(pass);
    drop(fence.enter_blocking(&name("a"), &token(5)).unwrap());
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_fence_is_readable_by_its_owner_only() {
    let (_directory, path) = place();
    let _fence = Fence::open(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "it is all there is");
}

#[test]
fn any_torn_tail_loses_nothing_but_itself() {
    let (_directory, path) = place();
    let fence = Fence::open(&path).unwrap();
    fence.raise(&name("a"), &token(5)).unwrap();
    let kept = fs::read(&path).unwrap();
    fence.raise(&name("a \"quoted\" näme"), &token(6)).unwrap();
    let whole = fs::read(&path).unwrap();
    for cut in kept.len()..=whole.len() {
        for zeros in [0, 1, 50] {
            let (_directory, path) = place();
            let torn = [&whole[..cut], &vec![0; zeros]].concat();
            fs::write(&path, &torn).unwrap();
            let fence = Fence::open(&path).unwrap_or_else(|error| panic!("cut at {cut}, {zeros} zeros: {error}"));
            assert_eq!(kind(fence.enter_blocking(&name("a"), &token(4))), ErrorKind::Fenced);
            fence.raise(&name("a"), &token(7)).unwrap();
            fence.raise(&name("b"), &token(8)).unwrap();
            let again = Fence::open(&path).unwrap();
            assert_eq!(again.highest(&name("a")).unwrap(), Some(token(7)), "cut at {cut}, {zeros} zeros");
            assert_eq!(again.highest(&name("b")).unwrap(), Some(token(8)));
        }
    }
}

#[test]
fn a_torn_tail_that_another_handle_left_is_passed_over() {
    let (_directory, path) = place();
    let fence = Fence::open(&path).unwrap();
    fence.raise(&name("a"), &token(5)).unwrap();
    File::options().append(true).open(&path).unwrap().write_all(b"0badc0de {\"rea").unwrap();
    fence.raise(&name("a"), &token(6)).unwrap();
    assert_eq!(Fence::open(&path).unwrap().list().unwrap(), [(name("a"), token(6))]);
}

#[test]
fn nothing_of_a_torn_tail_is_left_behind_a_shorter_mark() {
    let (_directory, path) = place();
    let fence = Fence::open(&path).unwrap();
    fence.raise(&name("a"), &token(5)).unwrap();
    let mark = fs::read(&path).unwrap().split(|byte| *byte == b'\n').nth(1).unwrap().len() + 1;
    // One byte longer than the next record, which would leave an empty line.
    File::options().append(true).open(&path).unwrap().write_all(&[&vec![0; mark], &b"\n"[..]].concat()).unwrap();
    fence.raise(&name("a"), &token(6)).unwrap();
    assert_eq!(Fence::open(&path).unwrap().list().unwrap(), [(name("a"), token(6))]);
}

#[test]
fn damage_is_an_error_wherever_it_is() {
    let (_directory, path) = place();
    let fence = Fence::open(&path).unwrap();
    for number in 1..=3 {
        fence.raise(&name("a"), &token(number)).unwrap();
    }
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        let (_directory, path) = place();
        fs::write(&path, damaged).unwrap();
        let error = Fence::open(&path).err().unwrap_or_else(|| panic!("damage at {at} was not noticed"));
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    }
}

#[test]
fn what_is_no_fence_is_refused_and_left_as_it_is() {
    let check = |text: &str, says: &str| {
        let (_directory, path) = place();
        fs::write(&path, text).unwrap();
        let error = Fence::open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    };
    check("", "is empty");
    check("SQLite format 3\0", "is no fence");
    check("leasehold fence 2\nwhatever", "has format 2");
    check("leasehold fence 1", "is no fence");
    check("leasehold fence 10\n", "has format 10");
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(kind(Fence::open(directory.path())), ErrorKind::InvalidConfig);
    assert_eq!(kind(Fence::open(directory.path().join("missing/fence"))), ErrorKind::InvalidConfig);
}

#[test]
fn a_fence_that_was_removed_or_put_back_while_open_admits_nobody() {
    let (_directory, path) = place();
    let fence = Fence::open(&path).unwrap();
    fence.raise(&name("a"), &token(1)).unwrap();
    let older = fs::read(&path).unwrap();
    fence.raise(&name("a"), &token(2)).unwrap();
    let newer = fs::read(&path).unwrap();
    let copy = |bytes: &[u8]| {
        fs::write(beside(&path, ".copy"), bytes).unwrap();
        fs::rename(beside(&path, ".copy"), &path).unwrap();
    };
    let refused = || fence.enter_blocking(&name("a"), &token(9)).unwrap_err();
    fs::write(&path, &older).unwrap();
    assert!(refused().to_string().contains("older copy"), "{}", refused());
    copy(&older);
    assert!(refused().to_string().contains("older copy"), "{}", refused());
    fs::remove_file(&path).unwrap();
    assert!(refused().to_string().contains("removed"), "{}", refused());
    copy(&newer);
    drop(fence.enter_blocking(&name("a"), &token(2)).unwrap());
}

#[test]
fn a_file_of_outdated_marks_is_written_anew_and_other_handles_follow() {
    let (_directory, path) = place();
    let (one, two) = (Fence::open(&path).unwrap(), Fence::open(&path).unwrap());
    one.raise(&name("kept"), &token(3)).unwrap();
    two.raise(&name("kept"), &token(3)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let (inode, mut longest, mut number) = (fs::metadata(&path).unwrap().ino(), 0, 0);
    while fs::metadata(&path).unwrap().ino() == inode {
        number += 1;
        assert!(number < 5_000, "never written anew");
        one.raise(&name("a"), &token(number)).unwrap();
        longest = longest.max(fs::metadata(&path).unwrap().len());
    }
    assert!(fs::metadata(&path).unwrap().len() < longest / 10);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(kind(two.enter_blocking(&name("a"), &token(number - 1))), ErrorKind::Fenced);
    two.raise(&name("b"), &token(1)).unwrap();
    let expected = [(name("a"), token(number)), (name("b"), token(1)), (name("kept"), token(3))];
    for fence in [one, two, Fence::open(&path).unwrap()] {
        assert_eq!(fence.list().unwrap(), expected);
    }
}

const CHILD: &str = "LEASEHOLD_TEST_FENCE";

/// A process that enters with ever greater tokens and prints each number that has a pass, until it
/// is killed.
fn enter_until_killed(path: &str) -> ! {
    let fence = Fence::open(path).unwrap();
    loop {
        let next = fence.highest(&name("a")).unwrap().map_or(1, |highest| highest.number() + 1);
        match fence.enter_blocking(&name("a"), &token(next)) {
            Ok(_pass) => println!("entered {next}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Fenced, "{error}"),
        }
    }
}

#[test]
fn no_pass_of_a_killed_process_is_forgotten_and_none_stays_in_the_way() {
    if let Ok(path) = std::env::var(CHILD) {
        enter_until_killed(&path);
    }
    let (_directory, path) = place();
    let fence = Fence::open(&path).unwrap();
    for round in 1..=5_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", thread::current().name().unwrap()])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = Vec::new();
        let mut hear = |line: std::io::Result<String>| {
            seen.extend(line.unwrap().strip_prefix("entered ").map(|number| number.parse::<u64>().unwrap()));
            seen.len()
        };
        while hear(lines.next().unwrap()) < 3 * round as usize {}
        child.kill().unwrap();
        child.wait().unwrap();
        lines.for_each(|line| _ = hear(line));
        assert!(seen.is_sorted_by(|a, b| a < b), "two passes for one number, or numbers that go down: {seen:?}");
        let last = *seen.last().unwrap();
        let highest = fence.highest(&name("a")).unwrap().unwrap().number();
        assert!(highest >= last, "{highest} after a pass for {last}");
        drop(fence.enter_blocking(&name("a"), &token(highest)).unwrap());
        if last > 1 {
            assert_eq!(kind(fence.enter_blocking(&name("a"), &token(last - 1))), ErrorKind::Fenced);
        }
    }
}

#[test]
fn two_processes_exclude_each_other() {
    let (_directory, path) = place();
    let spawn = || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture"])
            .arg(thread::current().name().unwrap().replace(
                "two_processes_exclude_each_other",
                "no_pass_of_a_killed_process_is_forgotten_and_none_stays_in_the_way",
            ))
            .env(CHILD, &path)
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    };
    let fence = Fence::open(&path).unwrap();
    let mut children = [spawn(), spawn()];
    let reached = |least: u64| fence.highest(&name("a")).unwrap().is_some_and(|highest| highest.number() >= least);
    while !reached(20) {
        thread::yield_now();
    }
    // While a pass is out here, nobody enters there, and so nothing is written.
    let pass = loop {
        let highest = fence.highest(&name("a")).unwrap().unwrap();
        if let Ok(pass) = fence.enter_blocking(&name("a"), &highest) {
            break pass;
        }
    };
    let before = fs::read(&path).unwrap();
    for _ in 0..1_000 {
        thread::yield_now();
        assert_eq!(fs::read(&path).unwrap(), before);
    }
    let highest = pass.token().number();
    drop(pass);
    while !reached(highest + 20) {
        thread::yield_now();
    }
    for child in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

#[test]
fn an_error_of_the_file_system_says_that_the_token_may_have_been_remembered() {
    let (_directory, path) = place();
    let fence = Fence::open(&path).unwrap();
    // After a torn write the file must be rewritten, and here it cannot.
    File::options().append(true).open(&path).unwrap().write_all(b"0badc0de {\"rea").unwrap();
    fs::create_dir(beside(&path, ".new")).unwrap();
    let error: Error = fence.enter_blocking(&name("a"), &token(1)).unwrap_err();
    assert!(error.may_have_taken_effect() && error.to_string().contains("invoices.fence"), "{error}");
    fs::remove_dir(beside(&path, ".new")).unwrap();
    drop(fence.enter_blocking(&name("a"), &token(1)).unwrap());
}

/// Enters `fence` with token 6 while a pass is out. `meanwhile` runs when that entry waits for the
/// file's lock, and the entry waits afterwards as well.
fn still_waits(path: &Path, fence: &Fence, pass: Pass, meanwhile: impl FnOnce()) {
    let entered = AtomicU64::new(0);
    let until_it_waits = || {
        let inode = format!(":{} ", fs::metadata(path).unwrap().ino());
        let waits = |line: &str| line.contains("-> FLOCK") && line.contains(&inode);
        while !fs::read_to_string("/proc/locks").unwrap().lines().any(waits) {
            assert_eq!(entered.load(Ordering::SeqCst), 0, "two are in");
            thread::yield_now();
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            let pass = fence.enter_blocking(&name("a"), &token(6)).unwrap();
            entered.store(6, Ordering::SeqCst);
            drop(pass);
        });
        until_it_waits();
        meanwhile();
        until_it_waits();
        drop(pass);
    });
    assert_eq!(entered.load(Ordering::SeqCst), 6);
}

#[test]
fn nothing_that_is_removed_beside_a_fence_lets_two_in() {
    let (directory, path) = place();
    let (one, two) = (Fence::open(&path).unwrap(), Fence::open(&path).unwrap());
    let pass = one.enter_blocking(&name("a"), &token(5)).unwrap();
    for entry in fs::read_dir(directory.path()).unwrap() {
        let entry = entry.unwrap().path();
        if entry != path {
            fs::remove_file(entry).unwrap();
        }
    }
    still_waits(&path, &two, pass, || ());
}

#[test]
fn a_file_that_is_written_anew_while_a_pass_is_out_lets_nobody_in() {
    // In memory, since it takes a thousand records.
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = directory.path().join("fence");
    let (one, two) = (Fence::open(&path).unwrap(), Fence::open(&path).unwrap());
    let pass = one.enter_blocking(&name("a"), &token(5)).unwrap();
    let before = fs::metadata(&path).unwrap().ino();
    still_waits(&path, &two, pass, || {
        for number in 1.. {
            one.raise(&name("b"), &token(number)).unwrap();
            if fs::metadata(&path).unwrap().ino() != before {
                break;
            }
        }
    });
}

#[test]
fn who_waits_while_the_file_is_written_anew_is_still_excluded() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = directory.path().join("fence");
    let fences = [Fence::open(&path).unwrap(), Fence::open(&path).unwrap()];
    // Nearly enough outdated records for a rewrite.
    for number in 1..=980 {
        fences[0].raise(&name("b"), &token(number)).unwrap();
    }
    let before = fs::metadata(&path).unwrap().ino();
    writes_never_go_down(&fences);
    assert_ne!(fs::metadata(&path).unwrap().ino(), before, "it was never written anew");
}

#[test]
fn a_realm_that_is_adopted_again_has_its_numbers() {
    on_both(|fence| {
        fence.raise(&name("a"), &token(7)).unwrap();
        fence.adopt(foreign(0).realm()).unwrap();
        fence.raise(&name("a"), &foreign(2)).unwrap();
        fence.adopt(token(0).realm()).unwrap();
        assert_eq!(kind(fence.enter_blocking(&name("a"), &token(3))), ErrorKind::Fenced);
        drop(fence.enter_blocking(&name("a"), &token(7)).unwrap());
        assert_eq!(fence.list().unwrap(), [(name("a"), token(7))]);
    });
}

#[test]
fn a_file_that_is_written_anew_keeps_the_numbers_of_all_realms() {
    let (_directory, path) = place();
    let (fence, other) = (Fence::open(&path).unwrap(), Fence::open(&path).unwrap());
    fence.raise(&name("a"), &token(7)).unwrap();
    fence.adopt(foreign(0).realm()).unwrap();
    // After a torn write it is rewritten.
    File::options().append(true).open(&path).unwrap().write_all(b"0badc0de").unwrap();
    let before = fs::metadata(&path).unwrap().ino();
    fence.adopt(&Realm::new("test:three")).unwrap();
    assert_ne!(fs::metadata(&path).unwrap().ino(), before);
    for fence in [fence, other, Fence::open(&path).unwrap()] {
        assert_eq!(fence.realm().unwrap(), Some(Realm::new("test:three")));
        assert_eq!(kind(fence.enter_blocking(&name("a"), &token(8))), ErrorKind::Fenced);
    }
    let fence = Fence::open(&path).unwrap();
    fence.adopt(token(0).realm()).unwrap();
    assert_eq!(fence.highest(&name("a")).unwrap(), Some(token(7)));
}

#[test]
fn a_file_of_the_first_version_is_read() {
    let (_directory, path) = place();
    // The file that version 1 writes after: token 7 of `a` in one realm, the adoption of another
    // realm, tokens 2 and 3 of `a` there.
    fs::write(&path, FIRST_VERSION).unwrap();
    let fence = Fence::open(&path).unwrap();
    assert_eq!(fence.list().unwrap(), [(name("a"), foreign(3))]);
    drop(fence.enter_blocking(&name("a"), &foreign(4)).unwrap());
    fence.adopt(token(0).realm()).unwrap();
    assert_eq!(fence.highest(&name("a")).unwrap(), Some(token(7)));
}

const FIRST_VERSION: &str = "leasehold fence 1\n608819f9 {\"realm\":\"test:one\",\"seen\":[\"a\",7]}\n\
    f5d3c8d0 {\"realm\":\"test:two\"}\n\
    6b738817 {\"realm\":\"test:two\",\"seen\":[\"a\",2]}\n\
    6ab1e220 {\"realm\":\"test:two\",\"seen\":[\"a\",3]}\n";

#[test]
fn a_link_that_leads_nowhere_becomes_no_second_fence() {
    let (directory, path) = place();
    std::os::unix::fs::symlink("elsewhere", &path).unwrap();
    let error = Fence::open(&path).unwrap_err();
    assert!(error.to_string().contains("link to a file that does not exist"), "{error}");
    assert!(!directory.path().join("elsewhere").exists() && path.is_symlink());
}

#[test]
fn what_was_planted_beside_a_fence_is_not_written_through() {
    let (directory, path) = place();
    let victim = directory.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    std::os::unix::fs::symlink(&victim, beside(&path, ".new")).unwrap();
    let fence = Fence::open(&path).unwrap();
    // After a torn write it is rewritten.
    File::options().append(true).open(&path).unwrap().write_all(b"0badc0de").unwrap();
    fence.raise(&name("a"), &token(1)).unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert!(!path.is_symlink());
}

#[test]
fn a_fence_with_two_names_is_refused_before_it_becomes_two() {
    let (directory, path) = place();
    let fence = Fence::open(&path).unwrap();
    fs::hard_link(&path, directory.path().join("other")).unwrap();
    for refused in [Fence::open(directory.path().join("other")).unwrap_err(), Fence::open(&path).unwrap_err()] {
        assert!(refused.to_string().contains("2 names (hard links)"), "{refused}");
    }
    assert_eq!(kind(fence.enter_blocking(&name("a"), &token(1))), ErrorKind::InvalidConfig);
    fs::remove_file(directory.path().join("other")).unwrap();
    drop(fence.enter_blocking(&name("a"), &token(1)).unwrap());
}

#[test]
fn a_fence_that_is_mounted_by_itself_is_refused_before_it_becomes_two() {
    const INSIDE: &str = "LEASEHOLD_TEST_FENCE_MOUNTED";
    if let Ok(path) = std::env::var(INSIDE) {
        let error = Fence::open(path).unwrap_err();
        assert!(error.to_string().contains("mount its folder"), "{error}");
        return;
    }
    let (directory, path) = place();
    Fence::open(&path).unwrap();
    let inside = directory.path().join("inside");
    fs::write(&inside, "").unwrap();
    // Also in a root that is no mount of its own, as after `chroot`: nothing can be made private
    // there.
    let script = "mount --make-rprivate / 2>/dev/null || :; mount --bind \"$1\" \"$2\"; shift 2; exec \"$0\" \"$@\"";
    let status = Command::new("unshare")
        .args(["-m", "--propagation", "unchanged", "sh", "-ec", script])
        .arg(std::env::current_exe().unwrap())
        .args([&path, &inside])
        .args(["--exact", thread::current().name().unwrap()])
        .env(INSIDE, &inside)
        .stdout(Stdio::null())
        .status()
        .expect("unshare must be installed for this test");
    assert!(status.success(), "{status}");
}

#[test]
fn a_fence_that_must_exist_is_not_made() {
    let (_directory, path) = place();
    let error = Fence::open_existing(&path).unwrap_err();
    assert!(error.kind() == ErrorKind::InvalidConfig && error.to_string().contains("there is no fence"), "{error}");
    assert!(!path.exists());
    Fence::open(&path).unwrap();
    assert_eq!(Fence::open_existing(&path).unwrap().list().unwrap(), []);
}

#[test]
fn a_fence_says_what_it_is_on() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let fence = Fence::open(directory.path().join("fence")).unwrap();
    assert_eq!(fence.filesystem(), Some(Filesystem::Memory));
    assert_eq!(Fence::in_memory().filesystem(), None);
}
