//! The fence on the command line.

use crate::place::Place;

#[test]
fn a_fence_admits_the_newest_holder_and_refuses_a_late_one() {
    let place = Place::new();
    let write = "\"$LEASEHOLD\" fence run --file f -- sh -c 'echo $LEASEHOLD_TOKEN >> written; exit 4'";
    assert_eq!(place.run(&["demo"], write).end().code, Some(4), "the write's own status");
    assert_eq!(place.run(&["demo"], write).end().code, Some(4));
    let realm = place.say(&["realm"]).out.trim().to_owned();
    let late =
        ["fence", "run", "--file", "f", "--name", "demo", "--token", "1", "--realm", &realm, "--", "touch", "bad"];
    let said = place.say(&late);
    assert_eq!(said.code, Some(77), "{said:?}");
    assert!(said.err.contains("refuses token 1"), "{said:?}");
    assert_eq!(place.read("written"), "1\n2\n");
    assert!(!place.path("bad").exists());
    let shown = place.say(&["fence", "show", "--file", "f", "--json"]).json();
    assert_eq!(shown, serde_json::json!({ "realm": realm, "names": [{ "name": "demo", "token": 2 }] }));
}

#[test]
fn a_fence_that_was_raised_refuses_the_evicted_holder() {
    let place = Place::new();
    let script = "\"$LEASEHOLD\" fence run --file f -- true; echo > entered; while ! test -e go; do sleep 0.02; done; \"$LEASEHOLD\" fence run --file f -- touch bad; echo $? > status";
    let holder = place.run(&["--ttl", "1h", "demo"], script);
    place.line("entered");
    let broken = place.say(&["break", "demo", "--now", "--json"]).json();
    let raised = place.say(&["fence", "raise", "--file", "f", "demo", &broken["used_up_token"].to_string()]);
    assert_eq!(raised.code, Some(0), "{raised:?}");
    std::fs::write(place.path("go"), "").unwrap();
    assert_eq!(place.line("status"), "77");
    assert!(!place.path("bad").exists());
    holder.end();
}

#[test]
fn a_foreign_realm_is_refused_until_it_is_adopted() {
    let place = Place::new();
    let enter = |realm: &str, token: &str| {
        place
            .say(&["fence", "run", "--file", "f", "--name", "n", "--token", token, "--realm", realm, "--", "true"])
            .code
    };
    assert_eq!((enter("a:1", "5"), enter("b:1", "9")), (Some(0), Some(77)));
    assert_eq!(place.say(&["fence", "adopt", "--file", "f", "b:1"]).code, Some(0));
    assert_eq!((enter("a:1", "6"), enter("b:1", "1")), (Some(77), Some(0)));
}

#[test]
fn an_operators_typing_error_makes_no_new_fence() {
    let place = Place::new();
    for args in [
        &["fence", "show", "--file", "g"][..],
        &["fence", "raise", "--file", "g", "n", "1"],
        &["fence", "adopt", "--file", "g", "a:1"],
    ] {
        let said = place.say(args);
        assert_eq!(said.code, Some(78), "{said:?}");
    }
    assert!(!place.path("g").exists());
}
