//! What the command does to a store in a file.

use crate::place::Place;

#[test]
fn a_command_that_has_ended_leaves_one_whole_file() {
    let place = Place::new();
    assert_eq!(place.run(&["demo"], "true").end().code, Some(0));
    for args in [&["status", "demo"][..], &["list"], &["realm"], &["break", "demo"]] {
        for ending in ["-wal", "-shm"] {
            assert!(!place.path(&format!("locks.db{ending}")).exists(), "{ending} before {args:?}");
        }
        place.say(args);
    }
    // So a plain copy has everything.
    std::fs::copy(place.path("locks.db"), place.path("copy.db")).unwrap();
    let again = ["run", "--store", "sqlite:copy.db", "demo", "--", "sh", "-c", "echo $LEASEHOLD_TOKEN"];
    assert_eq!(place.say(&again).out, "2\n");
}

#[test]
fn a_lease_whose_file_is_taken_away_is_lost_at_the_next_renewal_with_the_cause() {
    for ending in ["", "-wal", "-shm"] {
        let place = Place::new();
        let holder = place.run(&["--ttl", "3s", "other"], "echo > other; sleep 600");
        place.line("other");
        std::fs::remove_file(place.path(&format!("locks.db{ending}"))).unwrap();
        let said = holder.end();
        assert_eq!(said.code, Some(76), "{said:?}");
        let says = format!("locks.db{ending} was removed or replaced");
        assert!(said.err.contains("no longer has it") && said.err.contains(&says), "{said:?}");
    }
}

#[test]
fn a_lease_that_a_full_disk_ends_is_lost_with_the_cause() {
    let place = Place::new();
    let disk = place.path("disk");
    std::fs::create_dir(&disk).unwrap();
    let run = |program: &str, args: &[&str]| {
        assert!(std::process::Command::new(program).args(args).status().unwrap().success(), "{program} {args:?}");
    };
    let at = disk.to_str().unwrap();
    run("mount", &["-t", "tmpfs", "-o", "size=512k", "tmpfs", at]);
    let store = format!("sqlite:{at}/locks.db");
    let mut command = place.leasehold(&["run", "--ttl", "3s", "--store", &store, "demo", "--", "sh", "-c"]);
    command.arg("dd if=/dev/zero of=disk/filler bs=1k 2> filled; sleep 600");
    let said = command.output();
    run("umount", &["-l", at]);
    let said = said.unwrap();
    let text = String::from_utf8(said.stderr).unwrap();
    assert_eq!(said.status.code(), Some(76), "{text}");
    assert!(text.contains("locks.db: the disk is full"), "{text}");
}
