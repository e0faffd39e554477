//! What operators see and do.

use rustix::process::Signal;

use crate::place::{Place, Running};

fn holder(place: &Place, name: &str) -> Running {
    let file = format!("held {name}");
    let running = place
        .run(&["--ttl", "1h", "--info", "a job", name], &format!("echo $LEASEHOLD_HOLDER > '{file}'; exec sleep 600"));
    place.line(&file);
    running
}

#[test]
fn status_shows_who_holds_a_lock() {
    let place = Place::used();
    let free = place.say(&["status", "demo"]);
    assert_eq!((free.code, free.out.as_str()), (Some(0), "free\n"));
    assert_eq!(place.say(&["status", "demo", "--json"]).json()["held"], false);

    let running = holder(&place, "demo");
    let held = place.say(&["status", "demo"]);
    assert_eq!(held.code, Some(0));
    assert!(held.out.contains(&format!("pid {} (a job)", running.pid())), "{held:?}");
    let json = place.say(&["status", "demo", "--json"]).json();
    assert_eq!(json["holder"], place.line("held demo"));
    assert_eq!(
        (&json["held"], &json["revoked"], &json["info"], &json["name"]),
        (&true.into(), &false.into(), &"a job".into(), &"demo".into())
    );
    assert_eq!(json["pid"], running.pid().as_raw_nonzero().get());
    assert_eq!(json["realm"], place.say(&["realm"]).out.trim());
    for number in ["token", "held_for_ms", "remaining_ms"] {
        assert!(json[number].is_u64(), "{number}: {json}");
    }
    running.signal(Signal::TERM);
    running.end();
}

#[test]
fn list_shows_all_held_locks_in_order() {
    let place = Place::used();
    assert_eq!(place.say(&["list"]).out, "");
    assert_eq!(place.say(&["list", "--json"]).json(), serde_json::json!([]));
    let names = ["a", "b/%2F", "ü 1"];
    let running: Vec<_> = ["ü 1", "a", "b/%2F"]
        .iter()
        .enumerate()
        .map(|(at, name)| {
            let held = place.run(&["--ttl", "1h", name], &format!("echo > held{at}; exec sleep 600"));
            place.line(&format!("held{at}"));
            held
        })
        .collect();
    let listed = place.say(&["list"]);
    let first: Vec<_> = listed.out.lines().map(|line| line.split('\t').next().unwrap()).collect();
    assert_eq!(first, names);
    let json = place.say(&["list", "--json"]).json();
    let first: Vec<_> = json.as_array().unwrap().iter().map(|lock| lock["name"].as_str().unwrap()).collect();
    assert_eq!(first, names);
    for each in running {
        each.signal(Signal::TERM);
        each.end();
    }
}

#[test]
fn break_evicts_the_holder_that_was_named_and_says_what_follows() {
    let place = Place::used();
    let nothing = place.say(&["break", "demo"]);
    assert_eq!(nothing.code, Some(1));
    assert!(nothing.err.contains("there is nothing to break"), "{nothing:?}");

    let running = holder(&place, "demo");
    let other = place.say(&["break", "demo", "--holder", "00000000000000000000000000000001"]);
    assert_eq!(other.code, Some(1));
    assert!(other.err.contains("held by another holder"), "{other:?}");
    assert_eq!(place.say(&["status", "demo", "--json"]).json()["held"], true);

    let broken = place.say(&["break", "demo", "--holder", &place.line("held demo")]);
    assert_eq!(broken.code, Some(0), "{broken:?}");
    for says in [&format!("evicted {}", ""), "(a job)", "becomes free in", "the token 2 of sqlite:"] {
        assert!(broken.out.contains(says), "{says}: {broken:?}");
    }
    let revoked = place.say(&["status", "demo", "--json"]).json();
    assert_eq!((&revoked["held"], &revoked["revoked"]), (&false.into(), &true.into()));
    let again = place.say(&["break", "demo"]);
    assert_eq!(again.code, Some(1), "{again:?}");
    assert!(again.err.contains("revoked already"), "{again:?}");
    assert_eq!(place.say(&["run", "--try", "demo", "--", "true"]).code, Some(75), "it stays blocked");
    running.signal(Signal::TERM);
    running.end();
}

#[test]
fn stores_are_shown_with_what_they_guarantee() {
    let place = Place::new();
    let shown = place.say(&["stores"]);
    assert_eq!(shown.code, Some(0));
    for says in ["SURVIVES", "SQLITE", "MEMORY", "power loss", "for correctness", "for example sqlite:"] {
        assert!(shown.out.contains(says), "{says}: {shown:?}");
    }
    let json = place.say(&["stores", "--json"]).json();
    let kind =
        |scheme: &str| json.as_array().unwrap().iter().find(|kind| kind["schemes"][0] == scheme).unwrap().clone();
    assert_eq!((&kind("sqlite")["for_correctness"], &kind("memory")["for_correctness"]), (&true.into(), &false.into()));
    assert_eq!(kind("sqlite")["compiled_in"], true);
    assert!(kind("sqlite")["at_best"]["records_survive"].is_array());
}

#[test]
fn a_new_realm_is_begun_when_asked_for() {
    let place = Place::used();
    let before = place.say(&["realm"]).out;
    assert_eq!(place.say(&["realm"]).out, before);
    let new = place.say(&["realm", "--new", "--json"]).json();
    assert_eq!(new["before"], before.trim());
    assert_ne!(new["realm"], new["before"]);
    assert_eq!(place.say(&["realm", "--json"]).json()["realm"], new["realm"]);
}

#[test]
fn an_operator_who_mistypes_a_path_is_told_so_and_makes_no_file() {
    let place = Place::new();
    let url = format!("sqlite:{}", place.path("lokcs.db").display());
    for args in [&["status", "demo"][..], &["list"], &["break", "demo"], &["break", "--now", "demo"], &["realm"]] {
        let said = place.say(&[args, &["--store", &url]].concat());
        assert_eq!((said.code, said.out.as_str()), (Some(78), ""), "{said:?}");
        assert!(said.err.contains("lokcs.db is not there") && said.err.lines().count() == 1, "{said:?}");
    }
    assert_eq!(std::fs::read_dir(place.path("")).unwrap().count(), 0);
    // Who names no store has mistyped nothing.
    let mut command = place.leasehold(&["status", "demo"]);
    let output = command.env_remove("LEASEHOLD_STORE").env("XDG_STATE_HOME", place.path("state")).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "free\n");
}

#[test]
fn text_of_others_cannot_steer_the_terminal() {
    let place = Place::new();
    let running = place.run(&["--info", "a\x1b[2J\u{202e}b", "demo"], "echo > held; exec sleep 600");
    place.line("held");
    for args in [&["status", "demo"][..], &["list"], &["status", "demo", "--json"], &["break", "demo"]] {
        let said = place.say(args);
        assert!(!said.out.contains('\x1b'), "{said:?}");
        assert!(args.contains(&"--json") || !said.out.contains('\u{202e}'), "{said:?}");
    }
    running.signal(Signal::TERM);
    running.end();
}
