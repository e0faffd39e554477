//! What happens to signals.

use rustix::process::Signal;

use crate::place::{Place, state, until};

/// Whether these tests were started with this signal ignored, as in the background of a script:
/// then it stays so.
fn is_ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let set = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(set.trim(), 16).unwrap() & (1 << (signal.as_raw() - 1)) != 0
}

#[test]
fn signals_reach_the_command() {
    for (signal, name) in [
        (Signal::TERM, "TERM"),
        (Signal::INT, "INT"),
        (Signal::HUP, "HUP"),
        (Signal::QUIT, "QUIT"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
        (Signal::WINCH, "WINCH"),
    ] {
        if is_ignored(signal) {
            continue;
        }
        let place = Place::new();
        let script = format!("trap 'echo {name} > got; exit 7' {name}; echo > ready; while :; do sleep 0.01; done");
        let running = place.run(&["demo"], &script);
        place.line("ready");
        running.signal(signal);
        assert_eq!(running.end().code, Some(7), "{name}");
        assert_eq!(place.line("got"), name);
    }
}

#[test]
fn a_signal_that_ends_the_command_shows_in_the_status() {
    let place = Place::new();
    let running = place.run(&["demo"], "echo > ready; exec sleep 60");
    place.line("ready");
    running.signal(Signal::TERM);
    assert_eq!(running.end().code, Some(143));
    assert_eq!(place.say(&["status", "demo"]).out, "free\n");
}

#[test]
fn a_waiter_that_is_told_to_end_withdraws() {
    let place = Place::new();
    let holder = place.run(&["demo"], "echo > held; while ! test -e go; do sleep 0.02; done");
    place.line("held");
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        if is_ignored(signal) {
            continue;
        }
        let mut command = place.leasehold(&["run", "demo", "--", "touch", "bad"]);
        let mut waiter = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
        // Its one line says that it waits, and so has its signals in place.
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(waiter.stderr.take().unwrap()), &mut line).unwrap();
        assert!(line.contains("waiting for \"demo\""), "{line}");
        rustix::process::kill_process(rustix::process::Pid::from_child(&waiter), signal).unwrap();
        assert_eq!(waiter.wait().unwrap().code(), Some(code));
    }
    std::fs::write(place.path("go"), "").unwrap();
    holder.end();
    assert_eq!(place.say(&["run", "--try", "demo", "--", "true"]).code, Some(0), "nothing was left behind");
    assert!(!place.path("bad").exists());
}

#[test]
fn a_stop_signal_stops_the_command_first_and_both_go_on() {
    let place = Place::new();
    let running = place.run(&["demo"], "echo $$ > pid; while ! test -e go; do sleep 0.01; done");
    let child: i32 = place.line("pid").parse().unwrap();
    let leasehold = running.pid().as_raw_nonzero().get();
    running.signal(Signal::TSTP);
    until("a stopped leasehold", || (state(leasehold) == Some('T')).then_some(()));
    assert_eq!(state(child), Some('T'), "the command was stopped before");
    running.signal(Signal::CONT);
    until("a command that goes on", || (state(child) != Some('T')).then_some(()));
    std::fs::write(place.path("go"), "").unwrap();
    assert_eq!(running.end().code, Some(0));
}

#[test]
fn a_signal_that_was_ignored_stays_ignored() {
    let place = Place::new();
    let script = "trap '' HUP; exec \"$LEASEHOLD\" run demo -- sh -c 'echo $PPID > watchdog; echo > ready; while ! test -e go; do sleep 0.01; done'";
    let mut command = std::process::Command::new("sh");
    let leasehold = place.leasehold(&[]);
    command.args(["-c", script]).current_dir(place.path(""));
    command.envs(leasehold.get_envs().filter_map(|(name, value)| value.map(|value| (name, value))));
    let mut running = command.spawn().unwrap();
    place.line("ready");
    let hang_up = |pid| rustix::process::kill_process(pid, Signal::HUP).unwrap();
    hang_up(rustix::process::Pid::from_child(&running));
    hang_up(rustix::process::Pid::from_raw(place.line("watchdog").parse().unwrap()).unwrap());
    std::fs::write(place.path("go"), "").unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(0));
}

#[test]
fn two_signals_to_end_are_passed_on_like_one_and_the_command_decides() {
    let place = Place::new();
    let script = "trap 'echo told >> told' TERM; echo > ready; until test -e go; do sleep 0.01; done; exit 6";
    let running = place.run(&["demo"], script);
    place.line("ready");
    running.signal(Signal::TERM);
    place.line("told");
    running.signal(Signal::TERM);
    until("a second one", || (place.read("told").lines().count() == 2).then_some(()));
    assert_eq!(place.say(&["run", "--try", "demo", "--", "true"]).code, Some(75), "it runs on, under its lock");
    std::fs::write(place.path("go"), "").unwrap();
    assert_eq!(running.end().code, Some(6));
    assert_eq!(place.say(&["status", "demo"]).out, "free\n");
}

#[test]
fn a_service_manager_that_signals_every_process_ends_the_command_and_frees_the_lock() {
    let place = Place::new();
    let script = "echo $PPID > watchdog; echo $$ > pid; exec sleep 600";
    let running = place.run(&["--ttl", "1h", "demo"], script);
    let pids =
        ["watchdog", "pid"].map(|name| rustix::process::Pid::from_raw(place.line(name).parse().unwrap()).unwrap());
    for pid in pids.into_iter().chain([running.pid()]) {
        let _ = rustix::process::kill_process(pid, Signal::TERM);
    }
    let said = running.end();
    assert_eq!((said.code, said.err.as_str()), (Some(143), ""));
    assert_eq!(place.say(&["status", "demo"]).out, "free\n");
}
