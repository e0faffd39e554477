//! Exclusion, counted.

use crate::place::Place;

#[test]
fn no_increment_of_eight_processes_is_lost() {
    const PROCESSES: usize = 8;
    const TIMES: usize = 200;
    let place = Place::new();
    std::fs::write(place.path("count"), "0\n").unwrap();
    // Read, add, write: two at a time lose an increment.
    std::fs::write(place.path("add"), "read n < count; echo $((n + 1)) > count\n").unwrap();
    let script = format!(
        "i=0; while test $i -lt {TIMES}; do \"$LEASEHOLD\" run -q counter -- sh add || exit 1; i=$((i + 1)); done"
    );
    let loops: Vec<_> = (0..PROCESSES)
        .map(|at| {
            let mut all = place.leasehold(&["run", &format!("loop {at}"), "--", "sh", "-c", &script]);
            all.spawn().unwrap()
        })
        .collect();
    for mut each in loops {
        assert!(each.wait().unwrap().success());
    }
    assert_eq!(place.read("count").trim(), (PROCESSES * TIMES).to_string());
}
