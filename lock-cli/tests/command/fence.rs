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

/// `fence run` with the token of a holder, in the background, and what it says.
fn writer(place: &Place, token: &str, options: &[&str], script: &str) -> std::process::Child {
    let mut args = vec!["fence", "run", "--file", "f", "--name", "n", "--realm", "r", "--token", token];
    args.extend(options);
    args.extend(["--", "sh", "-c", script]);
    place.leasehold(&args).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_later_holder_does_not_write_before_an_earlier_one_whatever_is_removed_beside_the_fence() {
    let place = Place::new();
    let first = writer(&place, "5", &[], "echo > entered; while ! test -e go; do sleep 0.02; done; echo 5 >> written");
    place.line("entered");
    let _ = std::fs::remove_file(place.path("f.lock"));
    let second = writer(&place, "6", &[], "echo 6 >> written");
    let third = writer(&place, "6", &["--wait", "300ms"], "echo bad >> written").wait_with_output().unwrap();
    assert_eq!(third.status.code(), Some(75), "{third:?}");
    let text = String::from_utf8(third.stderr).unwrap();
    assert!(text.contains("the fence f was not free within 300ms"), "{text}");
    std::fs::write(place.path("go"), "").unwrap();
    for writer in [first, second] {
        assert!(writer.wait_with_output().unwrap().status.success());
    }
    assert_eq!(place.read("written"), "5\n6\n");
}

#[test]
fn a_writer_that_waits_for_a_fence_says_so_unless_it_is_quiet() {
    let place = Place::new();
    let first = writer(&place, "5", &[], "echo > entered; while ! test -e go; do sleep 0.02; done");
    place.line("entered");
    let quiet = writer(&place, "6", &["-q"], "true");
    let mut told = writer(&place, "6", &[], "true");
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(told.stderr.take().unwrap()), &mut line).unwrap();
    assert_eq!(line, "leasehold: waiting for the fence f: another writes\n");
    std::fs::write(place.path("go"), "").unwrap();
    assert!(first.wait_with_output().unwrap().status.success());
    assert!(told.wait().unwrap().success());
    let quiet = quiet.wait_with_output().unwrap();
    assert!(quiet.status.success() && quiet.stderr.is_empty(), "{quiet:?}");
}

#[test]
fn a_raise_far_above_what_was_seen_asks_for_force() {
    let place = Place::new();
    let raise = |args: &[&str]| place.say(&[&["fence", "raise", "--file", "f", "--realm", "r"], args].concat());
    assert!(writer(&place, "7", &[], "true").wait().unwrap().success());
    for slip in [&["n", "700000"][..], &["another", "700000"]] {
        let said = raise(slip);
        assert_eq!(said.code, Some(64), "{said:?}");
        assert!(said.err.contains("far above") && said.err.contains("7") && said.err.contains("--force"), "{said:?}");
    }
    assert_eq!(raise(&["n", "8"]).code, Some(0));
    assert_eq!(raise(&["n", "--force", "700000"]).code, Some(0));
    assert_eq!(raise(&["n", "6999999"]).code, Some(0));
}

#[test]
fn a_realm_that_is_adopted_again_still_refuses_its_late_holders() {
    let place = Place::new();
    let enter = |realm: &str, token: &str| {
        place
            .say(&["fence", "run", "--file", "f", "--name", "n", "--token", token, "--realm", realm, "--", "true"])
            .code
    };
    let adopt = |realm: &str| assert_eq!(place.say(&["fence", "adopt", "--file", "f", realm]).code, Some(0));
    assert_eq!(enter("a:1", "7"), Some(0));
    adopt("b:1");
    assert_eq!(enter("b:1", "1"), Some(0));
    adopt("a:1");
    assert_eq!((enter("a:1", "3"), enter("a:1", "7")), (Some(77), Some(0)));
}

#[test]
fn a_fence_is_shown_to_whoever_may_only_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    assert!(writer(&place, "7", &[], "true").wait().unwrap().success());
    // Another user, who may read the fence and change nothing.
    std::fs::set_permissions(place.path("f"), std::fs::Permissions::from_mode(0o444)).unwrap();
    std::fs::set_permissions(place.path(""), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = place.path("leasehold");
    std::fs::copy(assert_cmd::cargo::cargo_bin!("leasehold"), &program).unwrap();
    let as_nobody = |args: &[&str]| {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program).args(args);
        let output = command.current_dir(place.path("")).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap())
    };
    let (code, text) = as_nobody(&["fence", "show", "--file", "f"]);
    assert_eq!((code, text.as_str()), (Some(0), "realm r\nn\t7\n"));
    let (code, text) = as_nobody(&["fence", "raise", "--file", "f", "n", "8"]);
    assert!(code == Some(78) && text.contains("ermission denied"), "{code:?} {text}");
}

#[test]
fn a_fence_in_memory_is_not_taken_without_a_word() {
    let place = Place::new();
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let file = folder.path().join("f");
    let args = |quiet: &'static str| {
        [
            "fence",
            "run",
            quiet,
            "--file",
            file.to_str().unwrap(),
            "--name",
            "n",
            "--token",
            "1",
            "--realm",
            "r",
            "--",
            "true",
        ]
        .map(str::to_owned)
    };
    let say = |args: [String; 13]| place.say(&args.each_ref().map(String::as_str));
    let said = say(args("--wait=1m"));
    assert!(said.code == Some(0) && said.err.contains("if the power fails it forgets"), "{said:?}");
    assert_eq!(say(args("--quiet")).err, "");
}
