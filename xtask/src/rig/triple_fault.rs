//! What Xen, `xl` and a guest's Linux write of a domain's end, line by line: a vCPU's triple fault with
//! its registers, the domain that an `xl` waits for, a crash, and a breakpoint of Linux' own that the
//! emulator has kept. `ends` makes sense of it.

/// What Xen prints of a triple fault, behind the domain and the vCPU.
const FAULT: &str = " Triple fault - invoking HVM shutdown action";

/// So many of the lines behind that are searched for the state of the vCPU.
const STATE_LINES: usize = 24;

/// A domain's number, as Xen has it. No other domain of the same boot gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Domain(pub(super) u32);

/// The domain and the vCPU of the first line about a triple fault: `(XEN) d7v1 Triple fault ...`.
pub(super) fn faulted(line: &str) -> Option<(Domain, &str)> {
    let (before, _) = line.split_once(FAULT)?;
    let vcpu = before.split_whitespace().next_back()?;
    let (domain, _) = vcpu.strip_prefix('d')?.split_once('v')?;
    Some((Domain(domain.parse().ok()?), vcpu))
}

/// What Xen prints of the vCPU's registers behind that line, in one line.
pub(super) fn state(vcpu: &str, lines: &[&str]) -> String {
    let mut state = String::new();
    for line in lines.iter().take(STATE_LINES) {
        let words: Vec<&str> = line.split_whitespace().collect();
        // Behind `(XEN)`, and a time if Xen writes it.
        let named = |word: &&str| matches!(*word, "RIP:" | "RFLAGS:" | "cr0:" | "cr3:");
        let Some(first) = words.iter().position(named) else {
            continue;
        };
        if words[first] == "RFLAGS:" && !line.contains(&format!("({vcpu})")) {
            break;
        }
        for pair in words[first..].chunks(2) {
            if let [name, value] = pair
                && matches!(
                    *name,
                    "RIP:" | "RFLAGS:" | "cr0:" | "cr4:" | "cr3:" | "cr2:"
                )
            {
                let name = name.trim_end_matches(':');
                state += &format!(", {name} {}", in_c(value));
            }
        }
        if words[first] == "cr3:" {
            break;
        }
    }
    state
}

/// A number as Xen prints it, `0010:[<ffffffff81000000>]` or `0000000080050033`, in C's notation.
fn in_c(value: &str) -> String {
    let digits = value.rsplit(':').next().unwrap_or(value);
    let digits = digits.trim_matches(|c| "[<>]".contains(c));
    let digits = digits.trim_start_matches('0');
    format!("0x{}", if digits.is_empty() { "0" } else { digits })
}

/// The domain that an `xl` waits for, and its name.
pub(super) fn waited_for(line: &str) -> Option<(Domain, &str)> {
    let rest = line.split_once("Waiting for domain ")?.1;
    let (name, rest) = rest.split_once(" (domid ")?;
    let (domain, _) = rest.split_once(')')?;
    Some((Domain(domain.parse().ok()?), name))
}

/// The domain that has crashed, if a line of `xl` says so.
pub(super) fn crashed(line: &str) -> Option<Domain> {
    let rest = line.split_once("Domain ")?.1;
    let (domain, rest) = rest.split_once(" has shut down, reason code ")?;
    let reason = rest.split_whitespace().next()?;
    (reason == "3").then(|| domain.parse().ok().map(Domain))?
}

/// How Linux reports a breakpoint that it does not know of.
const BREAKPOINT: &str = "int3: 0000 [#";

/// Where Linux met breakpoints that it did not know of, in the console of a guest. While it changes its
/// own code it has one there, and knows of it; QEMU 7.2 may keep a translation of that.
pub(super) fn breakpoints(console: &str) -> Vec<&str> {
    let mut reports = console.split(BREAKPOINT);
    reports.next();
    reports
        .map(|report| {
            let line = report.lines().find_map(|line| line.split_once("RIP: "));
            line.map_or("", |(_, place)| place.trim_end())
        })
        .collect()
}

/// A triple fault for tests.
#[cfg(test)]
pub(super) mod samples {
    /// What Xen 4.17 prints of a triple fault.
    pub(crate) fn fault(domain: u32, vcpu: u32) -> String {
        format!(
            "(XEN) d{domain}v{vcpu} Triple fault - invoking HVM shutdown action 1\r\n\
             (XEN) *** Dumping Dom{domain} vcpu#{vcpu} state: ***\r\n\
             (XEN) ----[ Xen-4.17.7  x86_64  debug=n  Not tainted ]----\r\n\
             (XEN) CPU:    2\r\n\
             (XEN) RIP:    0010:[<ffffffff8106a2b6>]\r\n\
             (XEN) RFLAGS: 0000000000010086   CONTEXT: hvm guest (d{domain}v{vcpu})\r\n\
             (XEN) rax: 0000000000000000   rbx: 0000000000000001   rcx: 000000000000080b\r\n\
             (XEN) r15: 0000000000000000   cr0: 0000000080050033   cr4: 00000000000006f0\r\n\
             (XEN) cr3: 000000001e5c2000   cr2: 00007f0000001000\r\n\
             (XEN) fsb: 0000000000000000   gsb: ffff888027c00000   gss: 0000000000000000\r\n"
        )
    }

    /// What Xen prints of the vCPU above, as the reason of a failure has it.
    pub(crate) const STATE: &str = "RIP 0xffffffff8106a2b6, RFLAGS 0x10086, cr0 0x80050033, cr4 0x6f0, \
                         cr3 0x1e5c2000, cr2 0x7f0000001000";
}

#[cfg(test)]
mod tests {
    use super::samples::{STATE, fault};
    use super::*;

    #[test]
    fn breakpoints_are_found_with_their_places() {
        let oops = "[    9.10] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI\r\n\
                    [    9.10] CPU: 1 PID: 0\r\n\
                    [    9.10] RIP: 0010:sched_clock_cpu+0x9/0x1d0\r\n\
                    [    9.11] RIP: 0010:pv_native_safe_halt+0xf/0x20\r\n";
        assert_eq!(breakpoints(oops), ["0010:sched_clock_cpu+0x9/0x1d0"]);
        assert_eq!(breakpoints(&oops[..60]), [""]);
        assert_eq!(breakpoints("RIP: 0010:foo\n%% up\n"), [""; 0]);
    }

    #[test]
    fn the_lines_of_xen_and_xl_are_read() {
        let text = fault(7, 1);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(faulted(lines[0]), Some((Domain(7), "d7v1")));
        assert!(lines[1..].iter().all(|line| faulted(line).is_none()));
        assert_eq!(state("d7v1", &lines[1..]), format!(", {STATE}"));
        // Xen may write the time, and other registers be those of another vCPU.
        let timed: Vec<String> = lines
            .iter()
            .map(|line| line.replace("(XEN)", "(XEN) [    9.25]"))
            .collect();
        let timed: Vec<&str> = timed.iter().map(String::as_str).collect();
        assert_eq!(faulted(timed[0]), Some((Domain(7), "d7v1")));
        assert_eq!(state("d7v1", &timed[1..]), format!(", {STATE}"));
        assert_eq!(state("d7v0", &lines[1..]), ", RIP 0xffffffff8106a2b6");
        let waits = "Waiting for domain a-b (domid 12) to die [pid 301]";
        assert_eq!(waited_for(waits), Some((Domain(12), "a-b")));
        let ended = |reason| format!("Domain 12 has shut down, reason code {reason} 0x{reason}");
        assert_eq!(crashed(&ended(3)), Some(Domain(12)));
        assert_eq!(crashed(&ended(1)), None);
        for line in [
            "",
            "d7 Triple fault - invoking HVM shutdown action 1",
            "Waiting for domain ",
        ] {
            assert!(
                faulted(line).is_none() && waited_for(line).is_none() && crashed(line).is_none()
            );
        }
    }
}
