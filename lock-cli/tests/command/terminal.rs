//! The command at a terminal.

use std::io::{Read as _, Write as _};
use std::sync::{Arc, Mutex};

use portable_pty::{CommandBuilder, PtySize, native_pty_system};
use rustix::process::Signal;

use crate::place::{Place, runs, state, until};

/// A screen with a process at it.
struct Screen {
    parser: Arc<Mutex<vt100::Parser>>,
    keys: Box<dyn std::io::Write + Send>,
    child: Box<dyn portable_pty::Child + Send + Sync>,
    _master: Box<dyn portable_pty::MasterPty + Send>,
}

impl Screen {
    /// Runs a program of this place at a new terminal, with nothing in its environment but what it
    /// needs.
    fn run(place: &Place, program: &str, args: &[&str]) -> Screen {
        let size = PtySize { rows: 24, cols: 100, ..PtySize::default() };
        let pair = native_pty_system().openpty(size).unwrap();
        let mut command = CommandBuilder::new(program);
        command.args(args);
        command.cwd(place.path(""));
        for (name, value) in place.leasehold(&[]).get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            }
        }
        command.env("PS1", "$ ");
        let child = pair.slave.spawn_command(command).unwrap();
        let parser = Arc::new(Mutex::new(vt100::Parser::new(24, 100, 0)));
        let mut reader = pair.master.try_clone_reader().unwrap();
        let screen = parser.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 1024];
            while let Ok(read @ 1..) = reader.read(&mut bytes) {
                screen.lock().unwrap().process(&bytes[..read]);
            }
        });
        Screen { parser, keys: pair.master.take_writer().unwrap(), child, _master: pair.master }
    }

    fn leasehold(place: &Place, args: &[&str]) -> Screen {
        Screen::run(place, assert_cmd::cargo::cargo_bin!("leasehold").to_str().unwrap(), args)
    }

    fn text(&self) -> String {
        self.parser.lock().unwrap().screen().contents()
    }

    fn shows(&self, text: &str) {
        until(&format!("{text:?} on the screen"), || self.text().contains(text).then_some(()));
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    fn end(mut self) -> u32 {
        until("the end of a process", || self.child.try_wait().unwrap()).exit_code()
    }
}

#[test]
fn a_waiter_sees_who_holds_the_lock_and_its_line_is_erased() {
    let place = Place::new();
    let holder = place.run(&["--info", "nightly", "demo"], "echo > held; while ! test -e go; do sleep 0.02; done");
    place.line("held");
    let screen = Screen::leasehold(&place, &["run", "demo", "--", "echo", "entered"]);
    screen.shows("waiting for \"demo\": held by ");
    screen.shows(&format!("pid {} (nightly) for ", holder.pid()));
    screen.shows("; waited 1s");
    screen.shows("; waited 2s");
    std::fs::write(place.path("go"), "").unwrap();
    holder.end();
    screen.shows("entered");
    assert!(!screen.text().contains("waiting"), "{}", screen.text());
    assert_eq!(screen.end(), 0);
}

#[test]
fn the_command_reads_the_terminal_and_ctrl_c_ends_it() {
    let place = Place::new();
    let mut screen =
        Screen::leasehold(&place, &["run", "demo", "--", "sh", "-c", "read line; echo \"read $line\"; exec cat"]);
    screen.press("some words\n");
    screen.shows("read some words");
    screen.press("\x03");
    assert_eq!(screen.end(), 130);
    assert_eq!(place.say(&["status", "demo"]).out, "free\n");
}

#[test]
fn ctrl_z_stops_the_job_and_fg_goes_on() {
    let place = Place::new();
    let mut screen = Screen::run(&place, "bash", &["--norc", "--noprofile", "-i"]);
    screen.shows("$ ");
    screen.press("\"$LEASEHOLD\" run demo -- sh -c 'echo $$ > pid; exec cat'\n");
    let pid: i32 = place.line("pid").parse().unwrap();
    screen.press("one\n");
    screen.shows("one\none");
    screen.press("\x1a");
    until("a stopped command", || (state(pid) == Some('T')).then_some(()));
    // What is typed is not what the shell says.
    screen.press("echo shell\"\"prompt\n");
    screen.shows("shellprompt");
    assert!(screen.text().contains("Stopped"), "{}", screen.text());
    screen.press("fg\n");
    until("a command that goes on", || (state(pid) != Some('T')).then_some(()));
    screen.press("two\n");
    screen.shows("two\ntwo");
    screen.press("\x03");
    // Ctrl-C throws away what was typed ahead.
    until("the end of the command", || (!runs(pid)).then_some(()));
    screen.press("echo ended\"\"with $?; \"$LEASEHOLD\" status demo\n");
    screen.shows("endedwith 130");
    screen.shows("\nfree");
    screen.press("exit\n");
    screen.end();
}

#[test]
fn a_hang_up_ends_the_command() {
    let place = Place::new();
    let screen = Screen::leasehold(&place, &["run", "demo", "--", "sh", "-c", "echo $$ > pid; exec sleep 600"]);
    let pid: i32 = place.line("pid").parse().unwrap();
    let leasehold = screen.child.process_id().unwrap() as i32;
    rustix::process::kill_process(rustix::process::Pid::from_raw(leasehold).unwrap(), Signal::HUP).unwrap();
    assert_eq!(screen.end(), 129);
    assert!(!runs(pid));
}
