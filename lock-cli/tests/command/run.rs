//! What `leasehold run` gives to its command, and gives back of it.

use crate::place::Place;

#[test]
fn the_commands_own_status_is_given_back() {
    let place = Place::new();
    for (script, code) in [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -9 $$", 137), ("kill -TERM $$", 143)]
    {
        let said = place.say(&["run", "demo", "--", "sh", "-c", script]);
        assert_eq!(said.code, Some(code), "{script}: {said:?}");
        assert_eq!(said.err, "", "{script}");
    }
    assert_eq!(place.say(&["status", "demo"]).out, "free\n");
}

#[test]
fn a_command_that_cannot_be_run_is_told_apart_and_leaves_no_lock() {
    let place = Place::new();
    std::fs::write(place.path("plain"), "no program").unwrap();
    for (command, code) in [("/no/such/command", 127), ("no-such-command-anywhere", 127), ("./plain", 126), ("/", 126)]
    {
        let said = place.say(&["run", "demo", "--", command]);
        assert_eq!(said.code, Some(code), "{said:?}");
        assert!(said.err.starts_with(&format!("leasehold: {command} cannot be run: ")), "{said:?}");
        assert_eq!(said.err.lines().count(), 1, "{said:?}");
    }
    assert_eq!(place.say(&["status", "demo"]).out, "free\n");
}

#[test]
fn a_script_that_names_no_interpreter_is_run_by_the_shell() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new();
    std::fs::create_dir(place.path("bin")).unwrap();
    for name in ["script", "bin/in-path"] {
        std::fs::write(place.path(name), "echo \"$1 of $#\"; exit 6\n").unwrap();
        std::fs::set_permissions(place.path(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("/nowhere:{}:{}", place.path("bin").display(), std::env::var("PATH").unwrap());
    for name in ["./script", "in-path"] {
        let args = ["run", "demo", "--", name, "one arg", "two"];
        let said = crate::place::Running::begin(place.leasehold(&args).env("PATH", &path)).end();
        assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (Some(6), "one arg of 2\n", ""), "{name}");
    }
}

#[test]
fn the_command_sees_its_lock() {
    let place = Place::new();
    let script = "echo $LEASEHOLD_NAME; echo $LEASEHOLD_HOLDER; echo $LEASEHOLD_TOKEN; echo $LEASEHOLD_REALM";
    let first = place.say(&["run", "demo 1/x", "--", "sh", "-c", script]);
    let second = place.say(&["run", "--correctness", "demo 1/x", "--", "sh", "-c", script]);
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (first, second) = (lines(&first.out), lines(&second.out));
    assert_eq!((first[0].as_str(), first[1].len()), ("demo 1/x", 32));
    assert_ne!(first[1], second[1], "every run is a holder of its own");
    assert!(first[2].parse::<u64>().unwrap() < second[2].parse::<u64>().unwrap());
    assert_eq!(first[3], place.say(&["realm"]).out.trim());
    assert_eq!(first[3], second[3]);
}

#[test]
fn the_command_has_our_standard_streams_and_folder() {
    let place = Place::new();
    let said = place.run(&["demo"], "pwd; echo to-err >&2; cat").end();
    assert_eq!(said.out.trim(), place.path("").canonicalize().unwrap().display().to_string());
    assert_eq!(said.err, "to-err\n");
}

#[test]
fn a_held_lock_is_not_entered() {
    let place = Place::new();
    let holder = place.run(
        &["demo", "--info", "nightly build"],
        "echo $LEASEHOLD_HOLDER > held; while ! test -e go; do sleep 0.02; done",
    );
    place.line("held");
    for args in
        [&["run", "--try", "demo", "--", "touch", "bad"][..], &["run", "--wait", "100ms", "demo", "--", "touch", "bad"]]
    {
        let said = place.say(args);
        assert_eq!(said.code, Some(75), "{said:?}");
        let last = said.err.lines().last().unwrap();
        assert!(last.starts_with("leasehold: \"demo\" is held by ") && last.contains("(nightly build)"), "{said:?}");
        assert!(last.contains(&format!("pid {}", holder.pid())), "{said:?}");
    }
    let other = place.say(&["run", "--try", "other", "--", "echo", "entered"]);
    assert_eq!(other.out, "entered\n");

    let waiter = place.run(&["demo"], "echo $LEASEHOLD_HOLDER");
    std::fs::write(place.path("go"), "").unwrap();
    assert_eq!(holder.end().code, Some(0));
    let waiter = waiter.end();
    assert_eq!(waiter.code, Some(0), "{waiter:?}");
    assert_ne!(waiter.out.trim(), place.line("held"));
    assert!(!place.path("bad").exists());
}

#[test]
fn a_quiet_waiter_says_nothing() {
    let place = Place::new();
    let holder = place.run(&["demo"], "echo > held; while ! test -e go; do sleep 0.02; done");
    place.line("held");
    let said = place.say(&["run", "-q", "--wait", "100ms", "demo", "--", "true"]);
    assert_eq!((said.code, said.err.lines().count()), (Some(75), 1), "{said:?}");
    let said = place.say(&["run", "--wait", "3s", "demo", "--", "true"]);
    assert_eq!(said.err.lines().count(), 2, "one line while it waits, one at its end: {said:?}");
    std::fs::write(place.path("go"), "").unwrap();
    holder.end();
}

#[test]
fn a_store_that_is_too_weak_for_correctness_is_refused_with_the_reason() {
    let said = Place::new().say(&["run", "--store", "memory:", "--correctness", "demo", "--", "true"]);
    assert_eq!(said.code, Some(78), "{said:?}");
    assert!(said.err.contains("its fencing tokens do not survive") && said.err.contains("sqlite:"), "{said:?}");
}

#[test]
fn a_run_inside_a_run_sees_its_own_lock() {
    let place = Place::new();
    let said = place
        .run(
            &["outer"],
            "\"$LEASEHOLD\" run inner -- sh -c 'echo $LEASEHOLD_NAME $LEASEHOLD_TOKEN'; echo $LEASEHOLD_NAME",
        )
        .end();
    assert_eq!(said.out, "inner 1\nouter\n");
}

#[test]
fn without_a_store_the_locks_are_in_the_users_state_folder() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new();
    let mut command = place.leasehold(&["run", "demo", "--", "true"]);
    let status = command.env_remove("LEASEHOLD_STORE").env("XDG_STATE_HOME", place.path("a state")).status().unwrap();
    assert!(status.success());
    let folder = place.path("a state/leasehold");
    assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    assert!(folder.join("locks.db").exists());
}

#[test]
fn children_that_the_command_leaves_behind_are_the_users() {
    let place = Place::new();
    let script = "(trap '' HUP; sleep 0.2; echo > left) >/dev/null 2>&1 & echo started";
    assert_eq!(place.run(&["demo"], script).end().code, Some(0));
    place.line("left");
}
