//! [`Machine`]: the machine and the boot in which this process runs.

use std::sync::Arc;

use lock_core::{Error, Result};

/// The machine and the boot in which this process runs: times in the file are comparable only
/// within them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    /// The kernel's random identity of this boot.
    pub(crate) boot: Arc<str>,
    /// The machine's identity across boots; `None` if it has none, as in many containers.
    pub(crate) id: Option<Arc<str>>,
    /// The identity of the lock file on its disk; `None` where an earlier version of this program
    /// did not record it.
    pub(crate) place: Option<Arc<str>>,
}

impl Machine {
    /// This machine, with the lock file at this place.
    ///
    /// # Errors
    ///
    /// Invalid configuration where the boot-time clock is not the machine's own, or the kernel has
    /// no boot id.
    #[cfg(target_os = "linux")]
    pub(crate) fn current(place: &str) -> Result<Machine> {
        let offsets = std::fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
        if has_boottime_offset(&offsets) {
            return Err(Error::invalid_config(
                "the store sqlite: is refused in a time namespace with a boottime offset: leases are judged by the machine's own boot-time clock",
            ));
        }
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(|error| {
            let text = "the store sqlite: needs /proc/sys/kernel/random/boot_id, by which it knows leases from before a reboot";
            Error::invalid_config(text).with_source(error)
        })?;
        let id = ["/etc/machine-id", "/var/lib/dbus/machine-id"].iter().find_map(|path| {
            let id = std::fs::read_to_string(path).ok()?;
            let id = id.trim();
            (id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())).then(|| id.into())
        });
        Ok(Machine { boot: boot.trim().into(), id, place: Some(place.into()) })
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn current(_place: &str) -> Result<Machine> {
        Err(Error::invalid_config(
            "the store sqlite: runs on Linux only: elsewhere there is no boot-time clock and boot id to judge leases by",
        ))
    }

    /// True if times that were written on `other` are comparable here. One kernel has one clock,
    /// whatever the ids of its containers. After a reboot a machine is known by its id. Where one
    /// of the two has no id, like a container, the file decides: a local disk belongs to one
    /// machine, and a file that is not a copy was on it before.
    pub(crate) fn shares_clock_with(&self, other: &Machine) -> bool {
        let is_same_file = other.place.is_some() && self.place == other.place;
        self.boot == other.boot
            || match (&self.id, &other.id) {
                (Some(here), Some(there)) => here == there,
                (None, None) => is_same_file || other.place.is_none(),
                _ => is_same_file,
            }
    }
}

/// The boot-time clock, in nanoseconds: it never steps, and counts while the machine is suspended.
#[cfg(target_os = "linux")]
pub(crate) fn boot_time() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn boot_time() -> i64 {
    unreachable!("BUG: no store opens where there is no boot-time clock")
}

/// Reads lines such as `boottime 1000 0`.
fn has_boottime_offset(offsets: &str) -> bool {
    offsets.lines().any(|line| {
        let mut fields = line.split_whitespace();
        fields.next() == Some("boottime") && fields.any(|word| word != "0")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(boot: &str, id: Option<&str>) -> Machine {
        at("here", boot, id)
    }

    fn at(place: &str, boot: &str, id: Option<&str>) -> Machine {
        Machine { boot: boot.into(), id: id.map(Into::into), place: Some(place.into()) }
    }

    #[test]
    fn an_offset_of_the_boot_time_clock_is_seen() {
        assert!(!has_boottime_offset(""));
        assert!(!has_boottime_offset("monotonic  7 0\nboottime  0 0\n"));
        assert!(has_boottime_offset("monotonic  0 0\nboottime  1000 0\n"));
        assert!(has_boottime_offset("boottime  -1 999999999\n"));
        assert!(has_boottime_offset("boottime 0 5"));
    }

    #[test]
    fn one_boot_is_one_machine_whatever_its_id() {
        assert!(machine("b", Some("x")).shares_clock_with(&machine("b", Some("y"))));
        assert!(machine("b", None).shares_clock_with(&machine("b", Some("y"))));
    }

    #[test]
    fn after_a_reboot_the_machine_is_known_by_its_id() {
        assert!(machine("b", Some("x")).shares_clock_with(&machine("c", Some("x"))));
        assert!(!machine("b", Some("x")).shares_clock_with(&machine("c", Some("y"))));
    }

    #[test]
    fn a_machine_without_an_id_is_known_by_the_file_on_its_disk() {
        assert!(machine("b", None).shares_clock_with(&machine("c", None)));
        assert!(machine("b", Some("x")).shares_clock_with(&machine("c", None)));
        assert!(machine("b", None).shares_clock_with(&machine("c", Some("x"))));
        assert!(!machine("b", None).shares_clock_with(&at("elsewhere", "c", None)));
        assert!(!machine("b", None).shares_clock_with(&at("elsewhere", "c", Some("x"))));
        assert!(!machine("b", Some("x")).shares_clock_with(&at("elsewhere", "c", None)));
        let earlier = |id: Option<&str>| Machine { place: None, ..machine("c", id) };
        assert!(machine("b", None).shares_clock_with(&earlier(None)));
        assert!(!machine("b", None).shares_clock_with(&earlier(Some("x"))));
    }

    #[test]
    fn the_boot_time_clock_goes_forward() {
        let earlier = boot_time();
        assert!(earlier > 0 && boot_time() >= earlier);
    }
}
