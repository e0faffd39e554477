//! [`Place`]: where a test runs commands.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

pub(crate) use lock_testkit::{WAIT_TIMEOUT, until};

/// A folder of its own, with a store of its own.
pub(crate) struct Place {
    folder: tempfile::TempDir,
    store: String,
}

impl Place {
    pub(crate) fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let store = format!("sqlite:{}", folder.path().join("locks.db").display());
        Place { folder, store }
    }

    /// The same, where locks were held before, so that operators find the store.
    pub(crate) fn used() -> Place {
        let place = Place::new();
        let made = place.say(&["run", "made", "--", "true"]);
        assert_eq!(made.code, Some(0), "{made:?}");
        place
    }

    /// A folder of its own, with the store at this URL.
    #[cfg(any(feature = "etcd", feature = "redis"))]
    pub(crate) fn at(store: String) -> Place {
        Place { store, ..Place::new() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn store(&self) -> String {
        self.store.clone()
    }

    /// `leasehold` with these arguments, with this place's store and folder.
    pub(crate) fn leasehold(&self, args: &[&str]) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("leasehold"));
        command.args(args).current_dir(self.folder.path()).env("LEASEHOLD_STORE", self.store());
        for name in ["NAME", "HOLDER", "TOKEN", "REALM", "DEADLINE", "LOG"] {
            command.env_remove(format!("LEASEHOLD_{name}"));
        }
        command.env("LEASEHOLD", assert_cmd::cargo::cargo_bin!("leasehold")).stdin(Stdio::null());
        command
    }

    /// What `leasehold` with these arguments says, and its status.
    pub(crate) fn say(&self, args: &[&str]) -> Said {
        Said::of(self.leasehold(args).output().unwrap())
    }

    /// Runs a script under a lock in the background.
    pub(crate) fn run(&self, args: &[&str], script: &str) -> Running {
        self.run_saying(args, script, Stdio::piped())
    }

    /// The same, with what `leasehold` says going there.
    pub(crate) fn run_saying(&self, args: &[&str], script: &str, there: Stdio) -> Running {
        let mut all = vec!["run"];
        all.extend(args);
        all.extend(["--", "sh", "-c", script]);
        Running::begin_saying(&mut self.leasehold(&all), there)
    }

    /// What stands in a file; empty if it is not there.
    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Waits until a line stands in this file, and gives it.
    pub(crate) fn line(&self, name: &str) -> String {
        until(&format!("a line in {name}"), || self.read(name).lines().next().map(str::to_owned))
    }

    /// The last number that a script wrote into this file.
    pub(crate) fn last_number(&self, name: &str) -> f64 {
        let text = self.read(name);
        // A writer may have been killed in the middle of its last line.
        let whole = &text[..text.rfind('\n').unwrap_or(0)];
        whole.lines().last().unwrap_or_else(|| panic!("nothing in {name}")).parse().unwrap()
    }
}

/// What a command said, and its status.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    fn of(output: std::process::Output) -> Said {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A command in the background; killed if a test fails.
pub(crate) struct Running(Option<Child>);

impl Running {
    /// Begins this one.
    pub(crate) fn begin(command: &mut Command) -> Running {
        Running::begin_saying(command, Stdio::piped())
    }

    fn begin_saying(command: &mut Command, there: Stdio) -> Running {
        Running(Some(command.stdout(Stdio::piped()).stderr(there).spawn().unwrap()))
    }

    pub(crate) fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(self.0.as_ref().unwrap())
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    /// Waits until it has ended.
    pub(crate) fn end(mut self) -> Said {
        let child = self.0.as_mut().unwrap();
        until("the end of the command", || child.try_wait().unwrap());
        Said::of(self.0.take().unwrap().wait_with_output().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The letter of a process's state; `None` if there is no such process.
pub(crate) fn state(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// The children of a process.
pub(crate) fn children(pid: i32) -> Vec<i32> {
    let of = |entry: std::fs::DirEntry| -> Option<i32> {
        let child: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?;
        (parent == pid.to_string()).then_some(child)
    };
    std::fs::read_dir("/proc").unwrap().flatten().filter_map(of).collect()
}

/// Whether a process runs: a zombie does not.
pub(crate) fn runs(pid: i32) -> bool {
    !matches!(state(pid), None | Some('Z' | 'X'))
}

/// Seconds since the machine was started, as scripts read them too.
pub(crate) fn now() -> f64 {
    std::fs::read_to_string("/proc/uptime").unwrap().split(' ').next().unwrap().parse().unwrap()
}
