//! What the command must do with every store that is a server.

use std::fs::File;

use crate::place::{Place, Running, runs};

/// Holds a lock until it is stopped, and writes who and what it is.
fn holder(place: &Place, args: &[&str]) -> Running {
    let script = "echo $$ > pid; echo $LEASEHOLD_TOKEN > token; echo $LEASEHOLD_HOLDER > held
        while ! test -e go; do sleep 0.02; done";
    let running = place.run(args, script);
    place.line("held");
    running
}

/// One holder at a time: who tries is refused, who waits is served next, and tokens rise.
pub(crate) fn exclude(place: &Place) {
    let first = holder(place, &["--ttl", "30s", "--info", "nightly build", "demo"]);
    for args in
        [&["run", "--try", "demo", "--", "touch", "bad"][..], &["run", "--wait", "200ms", "demo", "--", "touch", "bad"]]
    {
        let said = place.say(args);
        assert_eq!(said.code, Some(75), "{said:?}");
        let last = said.err.lines().last().unwrap();
        assert!(last.starts_with("leasehold: \"demo\" is held by ") && last.contains("(nightly build)"), "{said:?}");
    }
    let other = place.say(&["run", "--try", "other", "--", "echo", "entered"]);
    assert_eq!((other.code, other.out.as_str()), (Some(0), "entered\n"), "{other:?}");

    let second = place.run(&["--ttl", "30s", "demo"], "echo $LEASEHOLD_TOKEN; exit 3");
    std::fs::write(place.path("go"), "").unwrap();
    let (first, second) = (first.end(), second.end());
    assert_eq!((first.code, second.code), (Some(0), Some(3)), "{first:?} {second:?}");
    assert!(second.out.trim().parse::<f64>().unwrap() > place.last_number("token"));
    assert!(!place.path("bad").exists());
    assert_eq!(place.say(&["status", "demo"]).out, "free\n");
}

/// Operators see who holds what, and free it.
pub(crate) fn show_and_break(place: &Place) {
    let running = holder(place, &["--ttl", "12s", "--info", "a job", "demo/1"]);
    let json = place.say(&["status", "demo/1", "--json"]).json();
    assert_eq!((&json["held"], &json["info"]), (&true.into(), &"a job".into()), "{json}");
    assert_eq!(json["holder"], place.line("held"));
    assert_eq!(json["realm"], place.say(&["realm"]).out.trim());
    let listed = place.say(&["list", "--json"]).json();
    assert_eq!((listed[0]["name"].as_str(), listed.as_array().unwrap().len()), (Some("demo/1"), 1), "{listed}");

    let said = place.say(&["break", "--now", "demo/1"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let next = place.say(&["run", "--try", "demo/1", "--", "sh", "-c", "echo $LEASEHOLD_TOKEN"]);
    assert_eq!(next.code, Some(0), "{next:?}");
    assert!(next.out.trim().parse::<f64>().unwrap() > place.last_number("token"));
    // It learns of it with a renewal.
    let evicted = running.end();
    assert_eq!(evicted.code, Some(76), "{evicted:?}");
    assert_eq!(place.say(&["list"]).out, "");
}

/// Nobody listens at this URL.
pub(crate) fn cannot_be_reached(url: String) {
    let place = Place::at(url);
    for args in [&["run", "demo", "--", "touch", "bad"][..], &["status", "demo"], &["list"]] {
        let said = place.say(args);
        assert_eq!(said.code, Some(69), "{said:?}");
        assert_eq!(said.err.lines().count(), 1, "{said:?}");
        assert!(said.err.starts_with("leasehold: "), "{said:?}");
    }
    assert!(!place.path("bad").exists());
}

/// The server ends for good while one holds and one waits: the holder's command is stopped before
/// its lease ends, and the waiter says that there is no store.
pub(crate) fn dies(place: &Place, kill: impl FnOnce()) {
    let holding = holder(place, &["--ttl", "6s", "demo"]);
    let said = File::create(place.path("waiter says")).unwrap();
    let waiting = place.run_saying(&["--ttl", "6s", "demo"], "touch bad", said.into());
    // It says so after a while.
    place.line("waiter says");
    kill();
    let (holding, waiting) = (holding.end(), waiting.end());
    assert_eq!(holding.code, Some(76), "{holding:?}");
    assert!(holding.err.contains("the lease on \"demo\" is lost"), "{holding:?}");
    assert!(!runs(place.line("pid").parse().unwrap()), "its command runs on");
    assert_eq!(waiting.code, Some(69), "{waiting:?}");
    assert!(!place.path("bad").exists());
}

/// The guarantees are compared before anything is done.
pub(crate) fn is_enough_for_correctness(place: &Place) -> Option<String> {
    let said = place.say(&["run", "--correctness", "demo", "--", "touch", "entered"]);
    match said.code {
        Some(0) => {
            assert!(place.path("entered").exists());
            None
        }
        code => {
            assert_eq!(code, Some(78), "{said:?}");
            assert!(!place.path("entered").exists());
            Some(said.err)
        }
    }
}
