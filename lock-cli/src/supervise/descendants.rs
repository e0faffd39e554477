//! The processes below another: what a command has started, whatever group or session that has
//! moved to.
//!
//! A process whose parent has ended becomes a child of the nearest ancestor that [adopts](adopt)
//! orphans. So nothing that a command has started leaves its tree, and a walk down the tree finds
//! it.

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, getpid, waitid};

use self::process::Process;
pub(crate) use self::process::adopt;

/// Limit of immediate repetitions of a walk that finds new processes: a fork during a walk is found
/// by the next one.
const MAX_KILL_ROUNDS: usize = 100;

/// Sends SIGTERM and SIGCONT to everything below `root` that is not in this group.
pub(crate) fn terminate(root: Pid, group: Pid) {
    // Processes below another watchdog get SIGTERM from that one, and would get it twice.
    for process in below(root, |process| !process.is_watchdog) {
        if process.group != group.as_raw_nonzero().get() {
            process.signal(Signal::TERM);
            process.signal(Signal::CONT);
        }
    }
}

/// Kills everything below `root`, except these and their descendants.
pub(crate) fn kill(root: Pid, spared: &[Pid]) {
    let mut killed = std::collections::HashSet::new();
    for _ in 0..MAX_KILL_ROUNDS {
        let before = killed.len();
        for process in below(root, |process| !spared.contains(&process.pid)) {
            process.signal(Signal::KILL);
            killed.insert((process.pid, process.started));
        }
        if killed.len() == before {
            break;
        }
    }
}

/// True if nothing lives below `root`, except these and their descendants.
pub(crate) fn is_empty(root: Pid, spared: &[Pid]) -> bool {
    // One walk is not enough: a process that ends during it may hand its children to a part that
    // was walked already.
    (0..2).all(|_| below(root, |process| !spared.contains(&process.pid)).is_empty())
}

/// True if this process has ended and its children have a new parent.
pub(crate) fn is_dead(pid: Pid) -> bool {
    Process::look(pid).is_none_or(|process| process.is_dead)
}

/// The children of this process.
pub(crate) fn children() -> Vec<Pid> {
    process::Children::look().of(getpid())
}

/// Reaps the ended children of this process, except these: adopted orphans, which nobody else would
/// reap.
pub(crate) fn reap(spared: &[Pid]) {
    for child in children().into_iter().filter(|child| !spared.contains(child)) {
        let _ = waitid(WaitId::Pid(child), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }
}

/// The living processes below `root`. Unwanted ones are left out with their descendants.
fn below(root: Pid, wanted: impl Fn(&Process) -> bool) -> Vec<Process> {
    let children = process::Children::look();
    let (mut found, mut parents) = (Vec::<Process>::new(), vec![root]);
    while let Some(parent) = parents.pop() {
        for pid in children.of(parent) {
            let known = found.iter().any(|process| process.pid == pid);
            if let Some(process) = Process::look(pid).filter(|process| !known && !process.is_dead && wanted(process)) {
                parents.push(pid);
                found.push(process);
            }
        }
    }
    found
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod process {
    use std::collections::HashMap;
    use std::fs;
    use std::path::Path;

    use rustix::process::{
        Pid, PidfdFlags, Signal, getpid, kill_process, pidfd_open, pidfd_send_signal, set_child_subreaper,
    };

    /// From now on this process is the parent of those below it whose own parents have ended.
    pub(crate) fn adopt() {
        let _ = set_child_subreaper(Some(getpid()));
    }

    /// A process, as it was when it was looked at.
    #[derive(Debug)]
    pub(super) struct Process {
        pub(super) pid: Pid,
        pub(super) group: i32,
        /// When it was started: tells it apart from a later one with its id.
        pub(super) started: u64,
        /// It has ended, and was not reaped yet.
        pub(super) is_dead: bool,
        /// It watches over the command of another `leasehold`.
        pub(super) is_watchdog: bool,
        pub(super) parent: Option<Pid>,
    }

    impl Process {
        pub(super) fn look(pid: Pid) -> Option<Process> {
            let text = fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
            let text = String::from_utf8_lossy(&text);
            // The name may hold anything, brackets too.
            let (name, rest) = text.split_once(" (")?.1.rsplit_once(") ")?;
            let fields: Vec<_> = rest.split(' ').collect();
            let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
            Some(Process {
                pid,
                parent: Pid::from_raw(number(1)? as i32),
                group: number(2)? as i32,
                started: number(19)?,
                // While a thread runs, a process whose first thread has ended lives on.
                is_dead: matches!(*fields.first()?, "Z" | "X") && number(17)? <= 1,
                is_watchdog: name == "lock-watchdog",
            })
        }

        /// Sends a signal to it, and never to another process that got its id.
        pub(super) fn signal(&self, signal: Signal) {
            // A handle stays the same process's; whether it is this one is looked up when it is
            // open.
            let handle = pidfd_open(self.pid, PidfdFlags::empty());
            if Process::look(self.pid).is_none_or(|process| process.started != self.started) {
                return;
            }
            let _ = match handle {
                Ok(handle) => pidfd_send_signal(handle, signal),
                Err(_) => kill_process(self.pid, signal),
            };
        }
    }

    /// Whose children are whose.
    pub(super) enum Children {
        /// The system has a list for each process.
        Listed,
        /// It has not, and all processes were looked at.
        Found(HashMap<Pid, Vec<Pid>>),
    }

    impl Children {
        pub(super) fn look() -> Children {
            if Path::new("/proc/thread-self/children").exists() { Children::Listed } else { Children::find() }
        }

        pub(super) fn find() -> Children {
            let pid = |name: &str| Pid::from_raw(name.parse().ok()?);
            let mut children = HashMap::<_, Vec<_>>::new();
            for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
                let Some(process) = entry.file_name().to_str().and_then(pid).and_then(Process::look) else { continue };
                if let Some(parent) = process.parent {
                    children.entry(parent).or_default().push(process.pid);
                }
            }
            Children::Found(children)
        }

        pub(super) fn of(&self, parent: Pid) -> Vec<Pid> {
            match self {
                Children::Listed => listed(parent),
                Children::Found(children) => children.get(&parent).cloned().unwrap_or_default(),
            }
        }
    }

    /// The children of all threads of this process.
    fn listed(parent: Pid) -> Vec<Pid> {
        let threads = fs::read_dir(format!("/proc/{}/task", parent.as_raw_nonzero()));
        let list = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("children")).ok();
        let lists = threads.into_iter().flatten().flatten().filter_map(list);
        let pids = |list: String| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>();
        lists.flat_map(pids).filter_map(Pid::from_raw).collect()
    }
}

/// Where the system says nothing of the processes below another, a command is its process group.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod process {
    use rustix::process::{Pid, Signal};

    pub(crate) fn adopt() {}

    pub(super) struct Process {
        pub(super) pid: Pid,
        pub(super) group: i32,
        pub(super) started: u64,
        pub(super) is_dead: bool,
        pub(super) is_watchdog: bool,
    }

    impl Process {
        pub(super) fn look(_: Pid) -> Option<Process> {
            None
        }

        pub(super) fn signal(&self, _: Signal) {}
    }

    pub(super) struct Children;

    impl Children {
        pub(super) fn look() -> Children {
            Children
        }

        pub(super) fn of(&self, _: Pid) -> Vec<Pid> {
            Vec::new()
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn children_are_found_by_lists_and_without_them() {
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 600 & setsid sleep 600 & echo; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
        let root = Pid::from_child(&shell);
        let sorted = |children: process::Children| {
            let mut pids = children.of(root);
            pids.sort_by_key(|pid| pid.as_raw_nonzero());
            pids
        };
        let found = sorted(process::Children::find());
        assert_eq!((found.len(), sorted(process::Children::look())), (2, found.clone()));
        assert!(!is_empty(root, &found[..1]) && is_empty(root, &found));
        kill(root, &[]);
        shell.wait().unwrap();
        assert!(is_empty(root, &[]));
    }

    #[test]
    fn a_process_with_the_id_of_an_earlier_one_is_not_signalled() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let process = Process::look(Pid::from_child(&child)).unwrap();
        let earlier = Process { started: process.started - 1, ..process };
        earlier.signal(Signal::KILL);
        assert!(child.try_wait().unwrap().is_none());
        let process = Process::look(Pid::from_child(&child)).unwrap();
        process.signal(Signal::KILL);
        child.wait().unwrap();
    }
}
