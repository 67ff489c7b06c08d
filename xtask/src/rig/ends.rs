//! Guests that the emulator has ended (`xtask/README.md`): Xen says that one of their processors took a
//! triple fault, or their Linux met a breakpoint of its own that it had removed. Read from Xen's log, the
//! guests' and those of the `xl` that waits for each domain's end, and distinguished from what Spindle
//! might have done.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::console;
use super::triple_fault::{Domain, breakpoints, crashed, faulted, state, waited_for};

/// How often something is tried in all, as long as it is the emulator that makes it fail.
pub(crate) const MOST_TRIES: usize = 4;

/// How the reason of such a failure begins.
const BEGIN: &str = "emulator: ";

/// The log in which dom0 writes the names of all domains that are guests, one a line.
const GUESTS: &str = "guests.log";

/// What ends a guest.
const TRIPLE_FAULT: &str = "triple fault";
const BREAKPOINT: &str = "removed breakpoint";

/// How a guest reports that something is wrong: that is not the emulator's fault, whatever else is.
const REPORTED: &str = "%% fail";

/// How often guests of one scenario are started again before they have come up.
const MOST_EARLY: usize = 4;

/// A guest that the emulator has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    domain: Domain,
    /// The guest's name.
    pub(crate) guest: String,
    /// What ended it.
    kind: &'static str,
    /// Which vCPU, and in which state: numbers in C's notation; or where it met the breakpoint.
    pub(crate) state: String,
    /// Whether it had not come up yet, so that it was started again.
    pub(crate) early: bool,
}

#[cfg(test)]
impl End {
    /// One for tests of others.
    pub(crate) fn sample(guest: &str, early: bool) -> Self {
        Self {
            domain: Domain(7),
            guest: guest.to_string(),
            kind: TRIPLE_FAULT,
            state: "d7v1, RIP 0x0".to_string(),
            early,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{BEGIN}{} of guest {} ({})",
            self.kind, self.guest, self.state
        )
    }
}

/// The ends of guests on a machine since a scenario's beginning; a copy sees what comes later.
#[derive(Clone)]
pub(crate) struct Ends {
    logs: PathBuf,
    /// Where Xen's log was when the scenario began.
    from: Rc<Cell<usize>>,
    /// Which domains had crashed by then.
    before: Rc<RefCell<BTreeSet<Domain>>>,
    /// Those that were started again.
    early: Rc<RefCell<Vec<Domain>>>,
}

/// What a boot's logs say of ends of domains.
struct Found {
    guests: Vec<End>,
    /// A domain that is no guest had a triple fault, too, or crashed.
    others: bool,
}

impl Ends {
    /// Those on a machine whose logs are in this folder.
    pub(super) fn new(logs: &Path) -> Self {
        Self {
            logs: logs.to_path_buf(),
            from: Rc::default(),
            before: Rc::default(),
            early: Rc::default(),
        }
    }

    /// Forgets those until now.
    pub(crate) fn begin(&self) {
        let log = fs::metadata(self.logs.join(console::LOG));
        self.from.set(log.map_or(0, |log| log.len() as usize));
        *self.before.borrow_mut() = self.read("xl-").lines().filter_map(crashed).collect();
        self.early.borrow_mut().clear();
    }

    /// Those since the scenario's beginning.
    pub(crate) fn list(&self) -> Vec<End> {
        self.found().guests
    }

    /// Whether the emulator has ended a guest of this name.
    pub(super) fn has(&self, guest: &str) -> bool {
        self.list().iter().any(|end| end.guest == guest)
    }

    /// Whether the emulator has ended the newest guest of this name, which has not come up yet, and
    /// it is to be started again.
    pub(super) fn restart(&self, guest: &str) -> Option<End> {
        let found = self.found();
        let end = found.guests.into_iter().rfind(|end| end.guest == guest)?;
        let mut early = self.early.borrow_mut();
        if end.early || found.others || early.len() >= MOST_EARLY {
            return None;
        }
        early.push(end.domain);
        Some(end)
    }

    /// The reason of a failure with what Xen said of the guest that the emulator ended, if that is
    /// why: a guest that had come up was ended, none has reported anything wrong, and Spindle's own
    /// domain neither had a triple fault nor crashed.
    pub(crate) fn explain(&self, why: &str) -> Option<String> {
        let found = self.found();
        if found.others || why.contains(REPORTED) || self.read("guest-").contains(REPORTED) {
            return None;
        }
        let end = found.guests.iter().find(|end| !end.early)?;
        Some(format!("{end}; {why}"))
    }

    fn found(&self) -> Found {
        let log = fs::read(self.logs.join(console::LOG)).unwrap_or_default();
        let log = log.get(self.from.get()..).unwrap_or_default();
        let log = String::from_utf8_lossy(log);
        let (early, before) = (self.early.borrow(), self.before.borrow());
        let (xl, guests) = (self.read("xl-"), self.read(GUESTS));
        let mut found = find(&log, &xl, &guests, &early);
        for guest in guests.lines() {
            let console = self.read(&format!("guest-{guest}.log"));
            let ends = kept_breakpoints(guest, &console, &xl, &early);
            let ends = ends.into_iter().filter(|end| !before.contains(&end.domain));
            found.guests.extend(ends);
        }
        found
    }

    /// The logs whose names begin like this, one behind the other.
    fn read(&self, name: &str) -> String {
        let mut text = String::new();
        for entry in fs::read_dir(&self.logs).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(name) {
                let log = fs::read(entry.path()).unwrap_or_default();
                text += &String::from_utf8_lossy(&log);
            }
        }
        text
    }
}

/// Whether a reason is that the emulator ended a guest.
pub(crate) fn is_emulator(why: &str) -> bool {
    why.starts_with(BEGIN)
}

/// What `log`, Xen's, says of domains whose names the logs of `xl` have, and of which `guests` are
/// guests. One whose name is not known is none.
fn find(log: &str, xl: &str, guests: &str, early: &[Domain]) -> Found {
    let names: BTreeMap<Domain, &str> = xl.lines().filter_map(waited_for).collect();
    let is_guest = |name: &str| guests.lines().any(|guest| guest.trim() == name);
    let name = |domain: Domain| names.get(&domain).copied().filter(|name| is_guest(name));
    let is_other = |domain: Domain| name(domain).is_none();
    let mut found = Found {
        guests: Vec::new(),
        others: xl.lines().filter_map(crashed).any(is_other),
    };
    let lines: Vec<&str> = log.lines().collect();
    for (number, line) in lines.iter().enumerate() {
        let Some((domain, vcpu)) = faulted(line) else {
            continue;
        };
        let Some(guest) = name(domain) else {
            found.others = true;
            continue;
        };
        // Two vCPUs of a guest are one end.
        if found.guests.iter().any(|end: &End| end.domain == domain) {
            continue;
        }
        let state = state(vcpu, &lines[number + 1..]);
        found.guests.push(End {
            domain,
            guest: guest.to_string(),
            kind: TRIPLE_FAULT,
            state: format!("{vcpu}{state}"),
            early: early.contains(&domain),
        });
    }
    found
}

/// The crashes of a guest's domains, if each was by a breakpoint that the emulator had kept. One that
/// crashed in another way makes it doubtful which is which: then none is.
fn kept_breakpoints(guest: &str, console: &str, xl: &str, early: &[Domain]) -> Vec<End> {
    let places = breakpoints(console);
    let all: BTreeSet<Domain> = xl.lines().filter_map(crashed).collect();
    let waited = xl.lines().filter_map(waited_for);
    let domains = waited.filter(|(domain, name)| *name == guest && all.contains(domain));
    let domains: BTreeSet<Domain> = domains.map(|(domain, _)| domain).collect();
    if domains.len() != places.len() {
        return Vec::new();
    }
    let ends = domains.into_iter().zip(places);
    ends.map(|(domain, place)| End {
        domain,
        guest: guest.to_string(),
        kind: BREAKPOINT,
        state: format!("RIP {place}"),
        early: early.contains(&domain),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::super::triple_fault::samples::{STATE, fault};
    use super::*;

    const XL: &str = "Waiting for domain spindle (domid 1) to die [pid 180]\n\
                      Waiting for domain writer (domid 7) to die [pid 301]\n\
                      Domain 7 has shut down, reason code 1 0x1\n\
                      Action for shutdown reason code 1 is destroy\n\
                      Waiting for domain writer (domid 8) to die [pid 412]\n";
    const GUESTS_LOG: &str = "writer\nchecker\n";

    /// A machine with these logs; they are removed with it.
    struct Logs(PathBuf);

    impl Logs {
        fn new(name: &str, xen: &str, xl: &str) -> Self {
            let name = format!("spindle-ends-{name}-{}", std::process::id());
            let dir = std::env::temp_dir().join(name);
            fs::create_dir_all(&dir).expect("a folder");
            let logs = [
                (console::LOG, xen),
                ("xl-all.log", xl),
                (GUESTS, GUESTS_LOG),
            ];
            for (name, text) in logs {
                fs::write(dir.join(name), text).expect("written");
            }
            Self(dir)
        }

        fn ends(&self) -> Ends {
            Ends::new(&self.0)
        }

        /// Xen prints more.
        fn append(&self, text: &str) {
            let path = self.0.join(console::LOG);
            let log = fs::read_to_string(&path).expect("a log");
            fs::write(path, log + text).expect("written");
        }
    }

    impl Drop for Logs {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_guests_triple_fault_is_why_the_scenario_failed_with_what_xen_says_of_it() {
        let logs = Logs::new("guest", &fault(7, 1), XL);
        let why = logs.ends().explain("no end after 30 s").expect("explained");
        let expected =
            format!("emulator: triple fault of guest writer (d7v1, {STATE}); no end after 30 s");
        assert_eq!(why, expected);
        assert!(is_emulator(&why));
        assert!(logs.ends().has("writer") && !logs.ends().has("checker"));
    }

    #[test]
    fn a_failure_without_a_triple_fault_is_not_explained() {
        let logs = Logs::new("none", "(XEN) d7v0 something else\r\n", XL);
        assert_eq!(logs.ends().explain("no disk"), None);
        assert!(!is_emulator("no disk") && !is_emulator("guest emulator: triple fault"));
    }

    #[test]
    fn spindles_own_end_is_never_the_emulators() {
        // A triple fault of Spindle's, of a domain that no log names, and of both.
        for xen in [fault(1, 0), fault(9, 0), fault(7, 1) + &fault(1, 0)] {
            let logs = Logs::new("spindle", &xen, XL);
            assert_eq!(logs.ends().explain("no disk"), None, "{xen}");
            assert_eq!(logs.ends().restart("writer"), None, "{xen}");
        }
        // Spindle has panicked, and a guest then had a triple fault.
        let xl = XL.to_string() + "Domain 1 has shut down, reason code 3 0x3\n";
        let logs = Logs::new("panic", &fault(7, 1), &xl);
        assert_eq!(logs.ends().explain("no disk"), None);
    }

    #[test]
    fn what_a_guest_has_reported_to_be_wrong_is_not_the_emulators() {
        let logs = Logs::new("reported", &fault(7, 1), XL);
        let why = "guest checker: %% fail fio: verify";
        assert_eq!(logs.ends().explain(why), None);
        // It has, but the scenario waited for the other one.
        assert!(logs.ends().explain("no end").is_some());
        let console = "%% ready\r\n%% fail fio: verify\r\n";
        fs::write(logs.0.join("guest-checker.log"), console).expect("written");
        assert_eq!(logs.ends().explain("no end"), None);
    }

    #[test]
    fn what_was_before_the_scenario_does_not_count() {
        let logs = Logs::new("before", &fault(7, 1), XL);
        let ends = logs.ends();
        ends.begin();
        assert_eq!(ends.explain("no disk"), None);
        logs.append(&fault(8, 0));
        assert!(
            ends.explain("no disk")
                .is_some_and(|why| why.contains("(d8v0,"))
        );
    }

    #[test]
    fn a_guest_that_was_started_again_is_listed_but_explains_nothing() {
        let logs = Logs::new("early", &fault(7, 1), XL);
        let ends = logs.ends();
        let end = ends.restart("writer").expect("it is started again");
        assert_eq!((end.guest.as_str(), end.early), ("writer", false));
        // Its end was taken; there is no other.
        assert_eq!(ends.restart("writer"), None);
        assert_eq!(ends.explain("no disk"), None);
        logs.append(&fault(8, 0));
        assert!(ends.explain("no disk").is_some());
        let early: Vec<bool> = ends.list().iter().map(|end| end.early).collect();
        assert_eq!(early, [true, false]);
    }

    #[test]
    fn guests_are_started_again_four_times_at_most() {
        let (mut xen, mut xl) = (String::new(), String::from(XL));
        for domain in 20..26 {
            xl += &format!("Waiting for domain writer (domid {domain}) to die [pid 1]\n");
            xen += &fault(domain, 0);
            let logs = Logs::new("often", &xen, &xl);
            let ends = logs.ends();
            ends.early.borrow_mut().extend((20..domain).map(Domain));
            assert_eq!(ends.restart("writer").is_some(), domain < 24, "{domain}");
        }
    }

    #[test]
    fn two_vcpus_of_a_guest_are_one_end_and_cut_off_states_do_no_harm() {
        let both = fault(7, 1) + &fault(7, 0);
        let first = both.find('\n').expect("a line") + 1;
        for cut in [0, 20, first, 130, 260, both.len()] {
            let logs = Logs::new("cut", &both[..cut], XL);
            let number = logs.ends().list().len();
            assert_eq!(number, usize::from(cut >= first), "{cut}");
        }
        // The state that follows is another vCPU's.
        let logs = Logs::new("mixed", &(both[..first].to_string() + &fault(8, 0)), XL);
        let ends = logs.ends().list();
        assert_eq!(ends.len(), 2);
        assert_eq!(ends[1].state, format!("d8v0, {STATE}"));
    }

    #[test]
    fn a_kept_breakpoint_is_the_emulators_but_another_crash_of_the_guest_is_not() {
        let oops = "Oops: int3: 0000 [#1] SMP\r\nRIP: 0010:clock+0x9/0x1d0\r\nKernel panic\r\n";
        let xl = XL.to_string() + "Domain 8 has shut down, reason code 3 0x3\n";
        let logs = Logs::new("breakpoint", "", &xl);
        let console = logs.0.join("guest-writer.log");
        // A panic for another reason.
        fs::write(&console, "Kernel panic\r\n").expect("written");
        assert_eq!(logs.ends().explain("no disk"), None);
        fs::write(&console, oops).expect("written");
        let why = logs.ends().explain("no disk").expect("explained");
        let expected =
            "emulator: removed breakpoint of guest writer (RIP 0010:clock+0x9/0x1d0); no disk";
        assert_eq!(why, expected);
        assert!(is_emulator(&why) && logs.ends().restart("writer").is_some());
        // Not in this scenario.
        let ends = logs.ends();
        ends.begin();
        assert_eq!(ends.explain("no disk"), None);
        // One of two was for another reason.
        let more = "Waiting for domain writer (domid 9) to die [pid 1]\n\
                    Domain 9 has shut down, reason code 3 0x3\n";
        let logs = Logs::new("breakpoint", "", &(xl + more));
        fs::write(logs.0.join("guest-writer.log"), oops).expect("written");
        assert_eq!(logs.ends().explain("no disk"), None);
    }
}
