//! What the command refuses, and how: one clear line and the right status.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::process::Stdio;

use crate::place::{Place, Said};

fn refused(said: &Said, code: i32, says: &str) {
    assert_eq!(said.code, Some(code), "{said:?}");
    assert!(said.err.starts_with("leasehold: ") && said.err.contains(says), "{says}: {said:?}");
    assert_eq!(said.err.lines().count(), 1, "{said:?}");
    assert!(!said.err.contains("panicked"), "{said:?}");
    assert_eq!(said.out, "", "{said:?}");
}

#[test]
fn a_wrong_command_line_is_refused() {
    let place = Place::new();
    let long = "x".repeat(513);
    for (args, says) in [
        (&["run", "", "--", "true"][..], "it is empty"),
        (&["run", &long, "--", "true"], "513 bytes"),
        (&["status", "a\nb"], r"\n at byte 1"),
        (&["run", "a\x1b[2J", "--", "true"], r"\u{1b}"),
        (&["break", ""], "it is empty"),
        (&["run", "demo", "--ttl", "0", "--", "true"], "10ms to 30days"),
        (&["run", "demo", "--ttl", "1ms", "--", "true"], "10ms to 30days"),
        (&["run", "demo", "--ttl", "400days", "--", "true"], "10ms to 30days"),
        (&["run", "demo", "--ttl", "soon", "--", "true"], "a time such as"),
        (&["run", "demo", "--ttl", "-3s", "--", "true"], "see leasehold --help"),
        (&["run", "demo", "--wait", "3", "--", "true"], "time unit"),
        (&["run", "demo", "--wait", "99999999999999999999y", "--", "true"], "too large"),
        (&["run", "demo", "--grace", "16s", "--", "true"], "half of --ttl"),
        (&["run", "demo", "--try", "--wait", "1s", "--", "true"], "cannot be used with"),
        (&["run", "demo"], "COMMAND"),
        (&["run", "demo", "--tri", "true"], "tip: a similar argument exists: '--try'"),
        (&["run", "--", "ls", "-l"], "NAME is missing"),
        (&["stauts", "demo"], "tip: a similar subcommand exists: 'status'"),
        (&["run", "--", "true"], "NAME"),
        (&["break", "demo", "--holder", "abc"], "32 hexadecimal digits"),
        (&["frobnicate"], "unrecognized subcommand"),
        (&["list", "--yaml"], "unexpected argument"),
        (&["fence", "run", "--file", "f", "--", "true"], "LEASEHOLD_NAME is not set"),
    ] {
        refused(&place.say(args), 64, says);
    }
}

#[test]
fn a_name_that_is_no_text_is_refused() {
    let place = Place::new();
    let mut command = place.leasehold(&["run"]);
    let output = command.arg(OsStr::from_bytes(b"a\xff")).args(["--", "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text, "leasehold: the lock name \"a\\xFF\" is not accepted: it is no UTF-8\n");
}

#[test]
fn a_wrong_store_is_refused() {
    let place = Place::new();
    std::fs::write(place.path("junk.db"), [b'x'; 5000]).unwrap();
    std::fs::create_dir(place.path("folder")).unwrap();
    let of = |name: &str| format!("sqlite:{}", place.path(name).display());
    let secret = "nosuch://user:hunter2@host/".to_owned();
    for (url, says) in [
        ("nonsense".to_owned(), "no scheme"),
        ("".to_owned(), "no scheme"),
        ("Foo:bar".to_owned(), "lower-case"),
        ("127.0.0.1:6379".to_owned(), "write it as redis://127.0.0.1:6379"),
        ("localhost:6379".to_owned(), "write it as redis://localhost:6379"),
        ("consul://h".to_owned(), "there is memory:"),
        ("sqllite:x.db".to_owned(), "did you mean sqlite:?"),
        ("redis://odd:1234/hunter2@h".to_owned(), "%2F"),
        ("postgres://app:5432?a=hunter2@h/db".to_owned(), "%2F"),
        (secret, "there is no store nosuch:"),
        ("memory:?colour=red".to_owned(), "\"colour\" is not accepted"),
        (format!("{}?colour=red", of("x.db")), "\"colour\" is not accepted"),
        ("sqlite:".to_owned(), "needs the path"),
        (of("junk.db"), "no SQLite database"),
        (of("folder"), "is not a file"),
        (of("no/such/folder/x.db"), "cannot be made"),
        ("sqlite:/proc/x.db".to_owned(), "cannot be made"),
    ] {
        for args in [&["list", "--store", &url][..], &["run", "--store", &url, "demo", "--", "touch", "bad"]] {
            let said = place.say(args);
            refused(&said, 78, says);
            assert!(!said.err.contains("hunter2"), "{said:?}");
        }
    }
    assert!(!place.path("bad").exists());
}

#[test]
fn a_store_that_ends_with_the_command_is_refused() {
    let place = Place::new();
    let args =
        [&["run", "demo", "--", "touch", "bad"][..], &["status", "demo"], &["list"], &["break", "demo"], &["realm"]];
    for args in args {
        refused(&place.say(&[&["--store", "memory:"][..], args].concat()), 78, "it excludes nobody");
    }
    assert!(!place.path("bad").exists());
}

#[test]
fn a_command_is_taken_without_dashes_and_a_name_may_begin_with_one() {
    let place = Place::new();
    let said = place.say(&["run", "demo", "echo", "-n", "hi", "--", "there"]);
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (Some(0), "hi -- there", ""));
    let said = place.say(&["run", "--try", "--", "-odd", "--", "sh", "-c", "echo $LEASEHOLD_NAME"]);
    assert_eq!((said.code, said.out.as_str()), (Some(0), "-odd\n"), "{said:?}");
    assert_eq!(place.say(&["status", "--", "-odd"]).out, "free\n");
    refused(&place.say(&["status", "-odd"]), 64, "-o");
    let fenced = place.say(&["run", "demo", "sh", "-c", "$LEASEHOLD fence run --file f echo -n written"]);
    assert_eq!((fenced.code, fenced.out.as_str()), (Some(0), "written"), "{fenced:?}");
}

#[test]
fn a_file_that_this_user_may_not_use_is_a_matter_of_configuration() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::used();
    let allow =
        |name: &str, mode| std::fs::set_permissions(place.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    allow("", 0o777);
    for mode in [0o600, 0o644] {
        allow("locks.db", mode);
        for args in [&["run", "demo", "--", "touch", "bad"][..], &["list"]] {
            let leasehold = place.leasehold(args);
            let mut command = std::process::Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(leasehold.get_program()).args(args);
            let envs = leasehold.get_envs().filter_map(|(name, value)| Some((name, value?)));
            let said = crate::place::Running::begin(command.envs(envs).current_dir("/")).end();
            refused(&said, 78, "locks.db");
        }
    }
}

#[test]
fn a_home_that_is_no_text_is_refused_with_the_way_out() {
    let place = Place::new();
    let mut command = place.leasehold(&["run", "demo", "--", "true"]);
    let home = place.path("").join(OsStr::from_bytes(b"h\xff"));
    let output = command.env_remove("LEASEHOLD_STORE").env_remove("XDG_STATE_HOME").env("HOME", home).output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("is no UTF-8; name a store with --store") && text.lines().count() == 1, "{text}");
}

#[test]
fn a_store_of_a_newer_version_is_refused() {
    let place = Place::new();
    assert_eq!(place.say(&["run", "demo", "--", "true"]).code, Some(0));
    let file = rusqlite::Connection::open(place.path("locks.db")).unwrap();
    let version: i64 = file.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert!(version > 0);
    file.execute_batch(&format!("PRAGMA user_version = {}", version + 1000)).unwrap();
    drop(file);
    refused(&place.say(&["list"]), 78, "newer");
}

#[test]
fn an_unwritable_state_folder_is_refused() {
    let place = Place::new();
    std::fs::write(place.path("file"), "").unwrap();
    let mut command = place.leasehold(&["list"]);
    let output = command.env_remove("LEASEHOLD_STORE").env("XDG_STATE_HOME", place.path("file")).output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let mut command = place.leasehold(&["list"]);
    let output =
        command.env_remove("LEASEHOLD_STORE").env_remove("XDG_STATE_HOME").env_remove("HOME").output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("--store"));
}

#[test]
fn wrong_log_levels_are_refused_and_right_ones_log_to_standard_error() {
    let place = Place::new();
    let output = place.leasehold(&["list"]).env("LEASEHOLD_LOG", "loud=very").output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let output = place.leasehold(&["run", "demo", "--", "true"]).env("LEASEHOLD_LOG", "debug").output().unwrap();
    assert!(output.status.success() && output.stdout.is_empty());
    assert!(String::from_utf8(output.stderr).unwrap().contains("acquired"));
    let said = place.say(&["run", "-v", "demo", "--", "true"]);
    assert!(said.err.contains("acquired"), "{said:?}");
}

#[test]
fn a_reader_that_has_gone_away_ends_a_command_quietly() {
    let place = Place::new();
    let holder = place.run(&["demo"], "echo > held; while ! test -e go; do sleep 0.02; done");
    place.line("held");
    for args in
        [&["list"][..], &["list", "--json"], &["status", "demo"], &["stores"], &["realm"], &["--help"], &["--version"]]
    {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = place.leasehold(args).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{args:?}: {output:?}");
    }
    if let Ok(full) = std::fs::File::options().write(true).open("/dev/full") {
        let output = place.leasehold(&["list"]).stdout(full).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(output.status.code(), Some(74), "{output:?}");
    }
    std::fs::write(place.path("go"), "").unwrap();
    holder.end();
}

#[test]
fn help_and_version_are_no_failure() {
    let place = Place::new();
    for args in [
        &["--help"][..],
        &["--version"],
        &["run", "--help"],
        &["fence", "--help"],
        &["help"],
        &["help", "run"],
        &["fence", "help", "raise"],
        &["help-me"],
    ] {
        let said = place.say(args);
        let fails = args == ["help-me"];
        assert_eq!(said.code, Some(if fails { 64 } else { 0 }), "{said:?}");
        assert_eq!(said.out.is_empty(), fails, "{said:?}");
    }
    assert_eq!(place.say(&[]).code, Some(64));
}
