//! What happens to the command when the lease is lost, and to `leasehold` when it is killed or
//! stopped.

use rustix::process::Signal;

use crate::place::{Place, Running, now, runs, state, until};

/// Writes the time into `old`, again and again, and so does a child of it into `grand`; neither
/// listens to SIGTERM.
const STUBBORN: &str = "trap '' TERM
    tick() { while :; do read t _ < /proc/uptime; echo $t >> $1; sleep 0.01; done; }
    tick grand & echo $! > grand.pid; echo $$ > old.pid; echo $LEASEHOLD_TOKEN > old.token; tick old";

/// Writes when it began, and its token.
const NEXT: &str = "read t _ < /proc/uptime; echo $t > new; echo $LEASEHOLD_TOKEN > new.token";

fn stubborn(place: &Place, args: &[&str]) -> (Running, [i32; 2]) {
    let holder = place.run(args, STUBBORN);
    let pid = |name| place.line(name).parse().unwrap();
    let pids = [pid("old.pid"), pid("grand.pid")];
    place.line("old");
    place.line("grand");
    (holder, pids)
}

/// The command and its child had ended when the next holder began.
fn nobody_wrote_late(place: &Place, pids: [i32; 2]) {
    let (old, grand, new) = (place.last_number("old"), place.last_number("grand"), place.last_number("new"));
    assert!(old <= new && grand <= new, "written at {old} and {grand}, the next holder began at {new}");
    assert!(!pids.into_iter().any(runs));
    assert!(place.last_number("old.token") < place.last_number("new.token"));
}

#[test]
fn the_command_of_a_killed_leasehold_ends_before_the_next_holder_begins() {
    let place = Place::new();
    let (holder, pids) = stubborn(&place, &["--ttl", "3s", "demo"]);
    let waiter = place.run(&["--ttl", "3s", "demo"], NEXT);
    holder.signal(Signal::KILL);
    let waiter = waiter.end();
    assert_eq!(waiter.code, Some(0), "{waiter:?}");
    nobody_wrote_late(&place, pids);
    drop(holder);
}

#[test]
fn the_command_of_a_stopped_leasehold_ends_before_the_next_holder_begins() {
    let place = Place::new();
    let (holder, pids) = stubborn(&place, &["--ttl", "3s", "demo"]);
    let waiter = place.run(&["--ttl", "3s", "demo"], NEXT);
    holder.signal(Signal::STOP);
    let waiter = waiter.end();
    assert_eq!(waiter.code, Some(0), "{waiter:?}");
    nobody_wrote_late(&place, pids);
    assert_eq!(state(holder.pid().as_raw_nonzero().get()), Some('T'), "it was stopped all the time");
    holder.signal(Signal::CONT);
    let holder = holder.end();
    assert_eq!(holder.code, Some(76), "{holder:?}");
    assert!(holder.err.contains("the lease on \"demo\" is lost"), "{holder:?}");
}

#[test]
fn a_store_that_does_not_answer_ends_the_command_before_its_lease_ends() {
    let place = Place::new();
    let (holder, pids) = stubborn(&place, &["--ttl", "3s", "demo"]);
    let waiter = place.run(&["--ttl", "3s", "demo"], NEXT);
    // Nobody can write any more: renewals wait, and are not answered.
    let blocker = rusqlite::Connection::open(place.path("locks.db")).unwrap();
    blocker.busy_timeout(crate::place::WAIT_TIMEOUT).unwrap();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    until("the end of the command", || (!pids.into_iter().any(runs)).then_some(()));
    let ended = now();
    blocker.execute_batch("ROLLBACK").unwrap();
    let (holder, waiter) = (holder.end(), waiter.end());
    assert_eq!(holder.code, Some(76), "{holder:?}");
    assert!(holder.err.contains("the last renewal failed: "), "{holder:?}");
    assert_eq!(holder.err.lines().count(), 1, "{holder:?}");
    assert_eq!(waiter.code, Some(0), "{waiter:?}");
    assert!(place.last_number("old") <= ended);
    nobody_wrote_late(&place, pids);
}

#[test]
fn a_full_disk_is_named_as_the_reason_of_the_loss() {
    let full = Place::new();
    let disk = full.path("disk");
    std::fs::create_dir(&disk).unwrap();
    // A file system of its own, in the namespace of one shell, since a test must not fill the
    // machine's.
    let script = "set -e; mount --make-rprivate / 2>/dev/null || :; mount -t ext4 -o loop image disk; export LEASEHOLD_STORE=sqlite:$PWD/disk/locks.db
        exec \"$0\" run --ttl 4s demo -- sh -c 'dd if=/dev/zero of=disk/full bs=64k 2>/dev/null; exec sleep 600'";
    for command in ["truncate -s 8M image", "mkfs.ext4 -q image"] {
        let made = std::process::Command::new("sh").args(["-c", command]).current_dir(full.path("")).status();
        assert!(made.unwrap().success(), "{command}");
    }
    let leasehold = full.leasehold(&[]);
    let mut command = std::process::Command::new("unshare");
    command
        .args(["-m", "--propagation", "unchanged", "sh", "-c", script])
        .arg(leasehold.get_program())
        .current_dir(full.path(""));
    let said = Running::begin(&mut command).end();
    assert_eq!(said.code, Some(76), "{said:?}");
    assert!(said.err.contains("the lease on \"demo\" is lost") && said.err.contains("the disk is full"), "{said:?}");
}

#[test]
fn a_command_that_listens_is_told_to_end_before_it_is_killed() {
    let place = Place::new();
    let script = "trap 'echo told > told; exit 5' TERM; echo $$ > pid; while :; do sleep 0.02; done";
    let holder = place.run(&["--ttl", "3s", "demo"], script);
    place.line("pid");
    holder.signal(Signal::STOP);
    assert_eq!(place.line("told"), "told");
    holder.signal(Signal::CONT);
    assert_eq!(holder.end().code, Some(76));
}

#[test]
fn a_broken_lock_ends_its_command() {
    let place = Place::new();
    let (holder, pids) = stubborn(&place, &["--ttl", "3s", "--grace", "200ms", "demo"]);
    let broken = place.say(&["break", "demo", "--json"]).json();
    assert_eq!(broken["used_up_token"].as_u64(), broken["token"].as_u64().map(|token| token + 1));
    let waiter = place.run(&["--ttl", "3s", "demo"], NEXT);
    let holder = holder.end();
    assert_eq!(holder.code, Some(76), "{holder:?}");
    assert!(holder.err.contains("the store no longer has it"), "{holder:?}");
    assert_eq!(waiter.end().code, Some(0));
    nobody_wrote_late(&place, pids);
    assert!(place.last_number("new.token") > broken["used_up_token"].as_f64().unwrap());
}

#[test]
fn a_lock_that_is_freed_at_once_is_free_at_once() {
    let place = Place::new();
    let holder = place.run(&["--ttl", "1h", "demo"], "echo > held; while :; do sleep 0.02; done");
    place.line("held");
    let said = place.say(&["break", "--now", "demo"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains("is free now") && said.out.contains("except a fence"), "{said:?}");
    assert_eq!(place.say(&["run", "--try", "demo", "--", "true"]).code, Some(0));
    holder.signal(Signal::TERM);
    assert_eq!(holder.end().code, Some(76), "it ended after the lock was taken away");
}

#[test]
fn a_killed_watchdog_ends_the_command_at_once() {
    let place = Place::new();
    // The watchdog is the parent of the command.
    let holder = place.run(
        &["--ttl", "1h", "demo"],
        "echo $$ > pid; echo $PPID > watchdog; trap '' TERM; while :; do sleep 0.02; done",
    );
    let watchdog: i32 = place.line("watchdog").parse().unwrap();
    let pid: i32 = place.line("pid").parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(watchdog).unwrap(), Signal::KILL).unwrap();
    let said = holder.end();
    assert_eq!(said.code, Some(76), "{said:?}");
    assert!(!runs(pid));
    assert_eq!(place.say(&["status", "demo"]).out, "free\n");
}

#[test]
fn a_stopped_watchdog_is_continued() {
    let place = Place::new();
    let script = "echo $PPID > watchdog; while ! test -e go; do sleep 0.02; done";
    let holder = place.run(&["--ttl", "10s", "demo"], script);
    let watchdog: i32 = place.line("watchdog").parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(watchdog).unwrap(), Signal::STOP).unwrap();
    std::fs::write(place.path("go"), "").unwrap();
    assert_eq!(holder.end().code, Some(0));
}

#[test]
fn leasehold_and_its_watchdog_have_different_names() {
    let place = Place::new();
    let holder = place.run(&["demo"], "cat /proc/$PPID/comm");
    assert_eq!(holder.end().out, "lock-watchdog\n", "so that `pkill leasehold` spares the watchdog");
}
