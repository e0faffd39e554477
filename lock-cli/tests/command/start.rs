//! How `leasehold` was started: what its parent has blocked, ignored, closed or limited makes no
//! difference.

use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::place::{Place, Running, children, state, until};

/// `leasehold` with these arguments, started through these words.
fn through(place: &Place, words: &[&str], args: &[&str]) -> Command {
    let leasehold = place.leasehold(args);
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(leasehold.get_program()).args(args).current_dir(place.path("")).stdin(Stdio::null());
    for (name, value) in leasehold.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

const WAYS: [&[&str]; 6] = [
    &["env", "--block-signal=CHLD"],
    &["env", "--block-signal"],
    &["env", "--ignore-signal=CHLD"],
    &["env", "--ignore-signal=PIPE"],
    &["env", "--ignore-signal"],
    &["env", "--ignore-signal", "--block-signal"],
];

#[test]
fn the_end_of_the_command_is_noticed_whatever_signals_were_blocked_or_ignored() {
    let place = Place::new();
    for way in WAYS {
        let run = ["run", "demo", "--", "sh", "-c", "exit 3"];
        let fence =
            ["fence", "run", "--file", "f", "--name", "n", "--token", "1", "--realm", "r", "--", "sh", "-c", "exit 3"];
        for args in [&run[..], &fence[..]] {
            let said = Running::begin(&mut through(&place, way, args)).end();
            assert_eq!((said.code, said.err.as_str()), (Some(3), ""), "{way:?} {args:?}");
        }
    }
    assert_eq!(place.say(&["status", "demo"]).out, "free\n");
}

#[test]
fn the_command_has_the_blocked_signals_that_leasehold_was_started_with() {
    let place = Place::new();
    let mask = ["grep", "SigBlk", "/proc/self/status"];
    for way in [&["env"][..], &["env", "--block-signal=CHLD,USR1"], &["env", "--block-signal"]] {
        let plain = Command::new(way[0]).args(&way[1..]).args(mask).output().unwrap();
        let under = Running::begin(&mut through(&place, way, &[&["run", "demo", "--"][..], &mask].concat())).end();
        assert_eq!(under.out, String::from_utf8(plain.stdout).unwrap(), "{way:?}");
    }
}

#[test]
fn a_broken_lock_ends_its_command_although_all_signals_were_blocked() {
    let place = Place::new();
    let args = ["run", "--ttl", "3s", "--grace", "100ms", "demo", "--", "sh", "-c", "echo > held; exec sleep 600"];
    let holder = Running::begin(&mut through(&place, &["env", "--block-signal"], &args));
    place.line("held");
    assert_eq!(place.say(&["break", "demo"]).code, Some(0));
    let said = holder.end();
    assert_eq!(said.code, Some(76), "{said:?}");
}

#[test]
fn signals_are_passed_on_although_they_were_blocked() {
    let place = Place::new();
    let args = ["run", "demo", "--", "env", "--default-signal=TERM", "sh", "-c", "echo > ready; exec sleep 600"];
    let running = Running::begin(&mut through(&place, &["env", "--block-signal"], &args));
    place.line("ready");
    running.signal(Signal::TERM);
    assert_eq!(running.end().code, Some(143));
}

#[test]
fn closed_standard_streams_are_no_failure() {
    let place = Place::new();
    let script = "exec \"$0\" run demo -- sh -c 'echo out; echo err >&2; cat; echo > done; exit 4' <&- >&- 2>&-";
    let said = Running::begin(&mut through(&place, &["sh", "-c", script], &[])).end();
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (Some(4), "", ""));
    place.line("done");
}

#[test]
fn the_first_process_of_a_container_reaps_orphans_and_gives_back_the_status() {
    let place = Place::new();
    let script = "(sleep 0.05 &); (setsid sleep 0.05 &); echo > ready; while ! test -e go; do sleep 0.01; done; exit 3";
    let args = ["run", "demo", "--", "sh", "-c", script];
    let running = Running::begin(&mut through(
        &place,
        &["unshare", "-pf", "--propagation", "unchanged", "--mount-proc", "--kill-child"],
        &args,
    ));
    place.line("ready");
    let unshare = running.pid().as_raw_nonzero().get();
    let leasehold = until("a first process", || children(unshare).first().copied());
    // What is started in the container from outside, and orphaned, belongs to the first process.
    let entered = Command::new("nsenter")
        .args(["-t", &leasehold.to_string(), "-p", "sh", "-c", "(sleep 0.1 & sleep 0.1 &); exit 0"])
        .status();
    assert!(entered.unwrap().success());
    until("no process but the watchdog and the command", || {
        let watchdog = children(leasehold);
        let dead =
            watchdog.iter().flat_map(|pid| children(*pid)).chain(watchdog.clone()).any(|pid| state(pid) == Some('Z'));
        (watchdog.len() == 1 && children(watchdog[0]).len() == 1 && !dead).then_some(())
    });
    std::fs::write(place.path("go"), "").unwrap();
    let said = running.end();
    assert_eq!((said.code, said.err.as_str()), (Some(3), ""));
    assert_eq!(place.say(&["status", "demo"]).out, "free\n");
}

#[test]
fn signals_end_the_first_process_of_a_container() {
    let place = Place::new();
    let args = ["run", "demo", "--", "sh", "-c", "echo > ready; exec sleep 600"];
    let running =
        Running::begin(&mut through(&place, &["unshare", "-pf", "--propagation", "unchanged", "--mount-proc"], &args));
    place.line("ready");
    let leasehold = until("a first process", || children(running.pid().as_raw_nonzero().get()).first().copied());
    rustix::process::kill_process(rustix::process::Pid::from_raw(leasehold).unwrap(), Signal::TERM).unwrap();
    assert_eq!(running.end().code, Some(143));
    assert_eq!(place.say(&["status", "demo"]).out, "free\n");
}

#[test]
fn with_few_file_descriptors_it_runs_or_says_why_not() {
    let place = Place::new();
    let mut codes = Vec::new();
    for limit in [4, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 20, 24, 32, 64] {
        let script = format!("ulimit -n {limit}; exec \"$0\" run --wait 10s --ttl 10s demo -- sh -c 'exit 3'");
        let said = Running::begin(&mut through(&place, &["sh", "-c", &script], &[])).end();
        assert!(!said.err.contains("panicked"), "{limit}: {said:?}");
        match said.code {
            Some(3) => assert_eq!(said.err, "", "{limit}"),
            Some(69 | 71 | 78) => assert!(said.err.starts_with("leasehold: "), "{limit}: {said:?}"),
            _ => panic!("{limit}: {said:?}"),
        }
        codes.push(said.code);
    }
    assert!(codes.contains(&Some(71)) && codes.last() == Some(&Some(3)), "{codes:?}");
    assert_eq!(place.say(&["status", "demo"]).out, "free\n");
}
