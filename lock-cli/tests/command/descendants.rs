//! What the command has started does not outlive the lease either, whatever group, session or
//! parent it moved to.

use rustix::process::{Pid, Signal, kill_process};

use crate::place::{Place, Running, runs, until};

/// Writes the time into a file, again and again, and listens to nothing.
const TICK: &str =
    "trap '' TERM HUP; echo $$ > $1.pid; while :; do read t _ < /proc/uptime; echo $t >> $1; sleep 0.01; done";

/// Everything that leaves a group, at once.
const LEAVERS: &str = "
    timeout 600 sh tick timeout &
    setsid sh tick setsid &
    nohup sh tick nohup >/dev/null 2>&1 &
    (setsid sh -c '(setsid sh tick daemon) & exit 0' &)
    bash -c 'set -m; sh tick job & wait' &
    \"$LEASEHOLD\" run -q --ttl 1h inner -- sh tick inner &
    \"$LEASEHOLD\" run -q --ttl 1h inner2 -- sh -c 'setsid timeout 600 sh tick innermost' &
    echo $PPID > watchdog
    sh tick own";
const NAMES: [&str; 8] = ["timeout", "setsid", "nohup", "daemon", "job", "inner", "innermost", "own"];

/// Writes when it began.
const NEXT: &str = "read t _ < /proc/uptime; echo $t > new";

fn leavers(place: &Place) -> Running {
    std::fs::write(place.path("tick"), TICK).unwrap();
    let holder = place.run(&["--ttl", "3s", "demo"], LEAVERS);
    for name in NAMES {
        place.line(name);
    }
    holder
}

/// None of them wrote after the next holder began.
fn nobody_wrote_late(place: &Place) {
    let new = place.last_number("new");
    for name in NAMES {
        let last = place.last_number(name);
        assert!(last <= new, "{name} wrote at {last}, the next holder began at {new}");
        let pid = place.line(&format!("{name}.pid")).parse().unwrap();
        assert!(!runs(pid), "{name} runs");
    }
}

fn pid_in(place: &Place, name: &str) -> Pid {
    Pid::from_raw(place.line(name).parse().unwrap()).unwrap()
}

#[test]
fn nothing_that_a_command_has_started_outlives_the_lease_of_a_killed_leasehold() {
    let place = Place::new();
    let holder = leavers(&place);
    let waiter = place.run(&["--ttl", "3s", "demo"], NEXT);
    holder.signal(Signal::KILL);
    assert_eq!(waiter.end().code, Some(0));
    nobody_wrote_late(&place);
}

#[test]
fn nothing_that_a_command_has_started_outlives_a_broken_lease() {
    let place = Place::new();
    let holder = leavers(&place);
    let waiter = place.run(&["--ttl", "3s", "demo"], NEXT);
    assert_eq!(place.say(&["break", "demo"]).code, Some(0));
    let said = holder.end();
    assert_eq!(said.code, Some(76), "{said:?}");
    // When the end is told, all have ended.
    for name in NAMES {
        assert!(!runs(place.line(&format!("{name}.pid")).parse().unwrap()), "{name} runs");
    }
    assert_eq!(waiter.end().code, Some(0));
    nobody_wrote_late(&place);
}

#[test]
fn nothing_that_a_command_has_started_outlives_its_killed_watchdog() {
    let place = Place::new();
    let holder = leavers(&place);
    kill_process(pid_in(&place, "watchdog"), Signal::KILL).unwrap();
    let said = holder.end();
    assert_eq!(said.code, Some(76), "{said:?}");
    assert_eq!(place.run(&["--try", "demo"], NEXT).end().code, Some(0));
    nobody_wrote_late(&place);
}

#[test]
fn everybody_is_asked_to_end_once_and_has_the_grace_for_it() {
    let place = Place::new();
    let slow = "trap 'sleep 0.3; echo told >> $0; exit' TERM; echo > $0.ready; while :; do sleep 0.01; done";
    std::fs::write(place.path("slow"), slow).unwrap();
    let script = "
        sh -c \"$(cat slow)\" group & setsid sh -c \"$(cat slow)\" session &
        \"$LEASEHOLD\" run --ttl 1h inner -- sh -c \"$(cat slow)\" inner &
        exec sh -c \"$(cat slow)\" command";
    let holder = place.run(&["--ttl", "1h", "--grace", "10m", "demo"], script);
    let names = ["group", "session", "inner", "command"];
    for name in names {
        place.line(&format!("{name}.ready"));
    }
    holder.signal(Signal::KILL);
    for name in names {
        place.line(name);
    }
    // Who has ended by itself gives its lock back.
    until("a free inner lock", || (place.say(&["status", "inner"]).out == "free\n").then_some(()));
    for name in names {
        assert_eq!(place.read(name), "told\n", "{name}");
    }
}

#[test]
fn an_inner_run_ends_with_the_outer_lease_although_nobody_is_left_to_stop_it() {
    let place = Place::new();
    std::fs::write(place.path("tick"), TICK).unwrap();
    let script = "echo $PPID > watchdog
        \"$LEASEHOLD\" run -q --ttl 1h inner -- sh tick inner 2> said; echo $? > status; exec sleep 600";
    let holder = place.run(&["--ttl", "3s", "demo"], script);
    place.line("inner");
    let waiter = place.run(&["--ttl", "3s", "demo"], NEXT);
    holder.signal(Signal::STOP);
    kill_process(pid_in(&place, "watchdog"), Signal::KILL).unwrap();
    assert_eq!(place.line("status"), "76");
    let said = place.read("said");
    assert!(said.contains("the lease of the `leasehold run` around it has ended"), "{said}");
    assert_eq!(place.say(&["status", "inner"]).out, "free\n");
    assert_eq!(waiter.end().code, Some(0));
    let (last, new) = (place.last_number("inner"), place.last_number("new"));
    assert!(last <= new, "written at {last}, the next holder began at {new}");
    holder.signal(Signal::CONT);
    assert_eq!(holder.end().code, Some(76));
}

#[test]
fn an_inner_run_goes_on_with_the_renewals_of_the_outer_one() {
    let place = Place::new();
    let script = "\"$LEASEHOLD\" run --ttl 1h inner -- sh -c 'echo > held; while ! test -e go; do sleep 0.02; done'";
    let holder = place.run(&["--ttl", "3s", "demo"], script);
    place.line("held");
    let began = crate::place::now();
    until("more than a TTL", || (crate::place::now() > began + 3.2).then_some(()));
    std::fs::write(place.path("go"), "").unwrap();
    let said = holder.end();
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
}

#[test]
fn an_inner_run_that_the_outer_one_leaves_behind_goes_on() {
    let place = Place::new();
    let script = "setsid \"$LEASEHOLD\" run --ttl 1h inner -- sh -c 'echo > held; while ! test -e go; do sleep 0.02; done; echo > left' >/dev/null 2>&1 &
        while ! test -e held; do sleep 0.01; done";
    assert_eq!(place.run(&["--ttl", "3s", "demo"], script).end().code, Some(0));
    let ended = crate::place::now();
    until("more than a TTL", || (crate::place::now() > ended + 3.2).then_some(()));
    let held = place.say(&["status", "inner", "--json"]).json();
    assert_eq!(held["held"], true);
    std::fs::write(place.path("go"), "").unwrap();
    place.line("left");
}
